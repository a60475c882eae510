// Matrix products C = A B with the columns of B and C in the lanes of vectors.
//
// In a forward pass B is the rows of one expert and A is its weights, so that the weights, each
// used for a few rows only, are read from where they are, once, in either order.

#pragma once

#include <algorithm>

#include "vectors.h"

namespace cartesian_moe {

// A tile of C stays in registers: kHeight x kVectors vectors, a row of B, one element of A.
#if defined(__AVX__) && !defined(__AVX512F__)
constexpr int kHeight = 4, kVectors = 3;  // 16 registers
#else
constexpr int kHeight = 8, kVectors = 3;  // 32 registers
#endif
constexpr int64_t kPanel = kVectors * kLanes;

enum class Order { kRowMajor, kColumnMajor };

// A matrix that is read one element at a time.
template <Order kOrder>
struct Scalars {
  const float* data;
  int64_t stride;

  const float* at(int64_t row, int64_t column) const {
    return kOrder == Order::kRowMajor ? data + row * stride + column : data + column * stride + row;
  }
  Scalars from_row(int64_t row) const { return {at(row, 0), stride}; }

  // Asks for what the tiles below will read first, a piece at each step of the depth.
  void prefetch(int64_t depth) const {
    if constexpr (kOrder == Order::kRowMajor) {
      __builtin_prefetch(data + kHeight * stride + kHeight * depth);
    } else {
      __builtin_prefetch(data + 16 + depth * stride);
    }
  }
};

// C = A B, or C += A B, for a tile of C; b has the columns of the tile alone.
template <int kRows, int kColumns, bool kAdd, Order kOrder>
__attribute__((noinline)) void MultiplyTile(int64_t depth, Scalars<kOrder> a, const float* b,
                                            float* c, int64_t c_stride) {
  Vector sums[kRows][kColumns];
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 3
    for (int j = 0; j < kColumns; ++j) {
      sums[i][j] = kAdd ? Load(c + i * c_stride + j * kLanes) : Vector{};
    }
  }
  for (int64_t k = 0; k < depth; ++k) {
    a.prefetch(k);
    Vector row[kColumns];
#pragma GCC unroll 3
    for (int j = 0; j < kColumns; ++j) row[j] = Load(b + (k * kColumns + j) * kLanes);
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      const float value = *a.at(i, k);
#pragma GCC unroll 3
      for (int j = 0; j < kColumns; ++j) sums[i][j] += value * row[j];
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 3
    for (int j = 0; j < kColumns; ++j) Store(c + i * c_stride + j * kLanes, sums[i][j]);
  }
}

template <int kColumns, bool kAdd, Order kOrder>
void MultiplyStrip(int64_t height, int64_t depth, Scalars<kOrder> a, const float* b, float* c,
                   int64_t c_stride) {
  int64_t i = 0;
  for (; i + kHeight <= height; i += kHeight) {
    MultiplyTile<kHeight, kColumns, kAdd>(depth, a.from_row(i), b, c + i * c_stride, c_stride);
  }
  for (; i < height; ++i) {
    MultiplyTile<1, kColumns, kAdd>(depth, a.from_row(i), b, c + i * c_stride, c_stride);
  }
}

// The same for any height, and for a number of vectors that is known only now.
template <bool kAdd, Order kOrder>
void Multiply(int64_t height, int64_t vectors, int64_t depth, Scalars<kOrder> a, const float* b,
              float* c, int64_t c_stride) {
  switch (vectors) {
    case 3:
      return MultiplyStrip<3, kAdd>(height, depth, a, b, c, c_stride);
    case 2:
      return MultiplyStrip<2, kAdd>(height, depth, a, b, c, c_stride);
    default:
      return MultiplyStrip<1, kAdd>(height, depth, a, b, c, c_stride);
  }
}

}  // namespace cartesian_moe
