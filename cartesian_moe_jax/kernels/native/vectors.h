// Vectors of floats as wide as the processor's, by the vector extensions of GCC and Clang.

#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

namespace cartesian_moe {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float Vector __attribute__((vector_size(kLanes * sizeof(float))));
typedef int32_t Integers __attribute__((vector_size(kLanes * sizeof(int32_t))));

// `count` rounded up to whole vectors.
constexpr int64_t Padded(int64_t count) { return (count + kLanes - 1) / kLanes * kLanes; }

inline Vector Load(const float* from) {
  Vector vector;
  std::memcpy(&vector, from, sizeof vector);
  return vector;
}

inline void Store(float* to, Vector vector) { std::memcpy(to, &vector, sizeof vector); }

// The first `count` lanes; the others are zeros, and are left alone where they are stored.
inline Vector LoadFirst(const float* from, int64_t count) {
  if (count >= kLanes) return Load(from);
  Vector vector{};
  std::memcpy(&vector, from, count * sizeof(float));
  return vector;
}

inline void StoreFirst(float* to, Vector vector, int64_t count) {
  if (count >= kLanes) return Store(to, vector);
  std::memcpy(to, &vector, count * sizeof(float));
}

// e^x to 2 units in the last place; from e^88 on it grows no more, below e^-87 it is 0.
// NaN stays NaN, whatever its bits.
inline Vector Exp(Vector x) {
  const Vector most = Vector{} + 88.0f, least = Vector{} - 87.0f;
  const Vector zero{}, whole = x;
  x = x > most ? most : x;
  x = x < least ? least : x;
  // Adding 1.5 * 2^23 rounds to an integer, which is then in the low bits.
  constexpr float kRounder = 12582912.0f;
  const Vector shifted = x * 1.44269504f + kRounder;
  const Vector integer = shifted - kRounder;
  // ln 2 in two parts, so that the first product is exact.
  const Vector rest = (x - integer * 0.693359375f) + integer * 2.12194440e-4f;
  Vector series = rest * (1.0f / 5040) + 1.0f / 720;
  series = series * rest + 1.0f / 120;
  series = series * rest + 1.0f / 24;
  series = series * rest + 1.0f / 6;
  series = series * rest + 0.5f;
  series = series * rest * rest + rest + 1.0f;
  const Integers scaled = reinterpret_cast<Integers>(series) +
                          (reinterpret_cast<Integers>(shifted) << 23);
  const Vector other = whole < least ? zero : whole;
  return whole >= least ? reinterpret_cast<Vector>(scaled) : other;
}

// Lanes in blocks of four: what processors shuffle fastest.
constexpr int kBlock = 4;

// Which lane of (first, second) comes to `lane` of the lower or upper half of all pairs, in blocks
// of four lanes and in pairs of kWidth: for kWidth = 1, a0 b0 a1 b1 and a2 b2 a3 b3.
template <int kWidth, bool kUpper>
constexpr int Interleaved(int lane) {
  const int within = lane % kBlock, pair = within / (2 * kWidth), of = within / kWidth % 2;
  return lane - within + (kUpper ? kBlock / 2 : 0) + pair * kWidth + within % kWidth + of * kLanes;
}

// The same for the even or odd blocks of first, and then those of second.
template <bool kOdd>
constexpr int Halved(int lane) {
  const int block = lane / kBlock, half = kLanes / kBlock / 2;
  const int from = block < half ? 2 * block : 2 * (block - half);
  return (from + kOdd) * kBlock + lane % kBlock + (block < half ? 0 : kLanes);
}

template <int kWidth, int... kLane>
inline void Interleave(Vector first, Vector second, Vector& lower, Vector& upper,
                       std::integer_sequence<int, kLane...>) {
  lower = __builtin_shufflevector(first, second, Interleaved<kWidth, false>(kLane)...);
  upper = __builtin_shufflevector(first, second, Interleaved<kWidth, true>(kLane)...);
}

template <int... kLane>
inline void Halve(Vector first, Vector second, Vector& even, Vector& odd,
                  std::integer_sequence<int, kLane...>) {
  even = __builtin_shufflevector(first, second, Halved<false>(kLane)...);
  odd = __builtin_shufflevector(first, second, Halved<true>(kLane)...);
}

// Transposes the blocks of 4 x 4 within four rows.
inline void TransposeBlocks(Vector* rows) {
  constexpr auto kAll = std::make_integer_sequence<int, kLanes>();
  Vector low[2], high[2];
  for (int i = 0; i < 2; ++i) Interleave<1>(rows[2 * i], rows[2 * i + 1], low[i], high[i], kAll);
  Interleave<2>(low[0], low[1], rows[0], rows[1], kAll);
  Interleave<2>(high[0], high[1], rows[2], rows[3], kAll);
}

// Transposes kLanes x kLanes elements.
inline void TransposeSquare(Vector (&rows)[kLanes]) {
  constexpr auto kAll = std::make_integer_sequence<int, kLanes>();
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; i += kBlock) TransposeBlocks(rows + i);
  if constexpr (kLanes == 2 * kBlock) {
#pragma GCC unroll 16
    for (int i = 0; i < kBlock; ++i) {
      Halve(rows[i], rows[i + kBlock], rows[i], rows[i + kBlock], kAll);
    }
  } else if constexpr (kLanes == 4 * kBlock) {
#pragma GCC unroll 16
    for (int i = 0; i < kBlock; ++i) {
      Vector even[2], odd[2];
      Halve(rows[i], rows[i + kBlock], even[0], odd[0], kAll);
      Halve(rows[i + 2 * kBlock], rows[i + 3 * kBlock], even[1], odd[1], kAll);
      Halve(even[0], even[1], rows[i], rows[i + 2 * kBlock], kAll);
      Halve(odd[0], odd[1], rows[i + kBlock], rows[i + 3 * kBlock], kAll);
    }
  }
}

// to[j][i] = from[i][j] for i < height, j < width; strides are in floats.
inline void Transpose(const float* from, int64_t from_stride, int64_t height, int64_t width,
                      float* to, int64_t to_stride) {
  const int64_t whole_height = height - height % kLanes, whole_width = width - width % kLanes;
  for (int64_t i = 0; i < whole_height; i += kLanes) {
    for (int64_t j = 0; j < whole_width; j += kLanes) {
      Vector rows[kLanes];
      const float* source = from + i * from_stride + j;
      for (int k = 0; k < kLanes; ++k, source += from_stride) rows[k] = Load(source);
      TransposeSquare(rows);
      float* target = to + j * to_stride + i;
      for (int k = 0; k < kLanes; ++k, target += to_stride) Store(target, rows[k]);
    }
  }
  for (int64_t i = 0; i < height; ++i) {
    for (int64_t j = i < whole_height ? whole_width : 0; j < width; ++j) {
      to[j * to_stride + i] = from[i * from_stride + j];
    }
  }
}

}  // namespace cartesian_moe
