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
  return whole < least ? zero : reinterpret_cast<Vector>(scaled);
}

// Exchanges the blocks of kStep x kStep elements off the diagonal of two rows.
template <int kStep, int... kLane>
inline void Exchange(Vector& upper, Vector& lower, std::integer_sequence<int, kLane...>) {
  const Vector first = upper, second = lower;
  upper = __builtin_shufflevector(first, second,
                                  ((kLane & kStep) ? kLanes + (kLane ^ kStep) : kLane)...);
  lower = __builtin_shufflevector(first, second,
                                  ((kLane & kStep) ? kLanes + kLane : (kLane ^ kStep))...);
}

template <int kStep>
inline void TransposeFrom(Vector (&rows)[kLanes]) {
  if constexpr (kStep < kLanes) {
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) {
      if (!(i & kStep)) {
        Exchange<kStep>(rows[i], rows[i + kStep], std::make_integer_sequence<int, kLanes>());
      }
    }
    TransposeFrom<2 * kStep>(rows);
  }
}

// to[j][i] = from[i][j] for i < height, j < width; strides are in floats.
inline void Transpose(const float* from, int64_t from_stride, int64_t height, int64_t width,
                      float* to, int64_t to_stride) {
  const int64_t whole_height = height - height % kLanes, whole_width = width - width % kLanes;
  for (int64_t j = 0; j < whole_width; j += kLanes) {
    for (int64_t i = 0; i < whole_height; i += kLanes) {
      Vector rows[kLanes];
#pragma GCC unroll 16
      for (int k = 0; k < kLanes; ++k) rows[k] = Load(from + (i + k) * from_stride + j);
      TransposeFrom<1>(rows);
#pragma GCC unroll 16
      for (int k = 0; k < kLanes; ++k) Store(to + (j + k) * to_stride + i, rows[k]);
    }
  }
  for (int64_t i = 0; i < height; ++i) {
    for (int64_t j = i < whole_height ? whole_width : 0; j < width; ++j) {
      to[j * to_stride + i] = from[i * from_stride + j];
    }
  }
}

}  // namespace cartesian_moe
