// Gradients of the experts' weights, in blocks that threads share.

#pragma once

#include "parallel.h"
#include "rows.h"

namespace cartesian_moe {

constexpr int64_t kDepth = 256;  // rows at a time: their packed outputs stay in a core's own cache

// Of all experts' weights [inputs][outputs]: d_weight = inputs^T d_outputs over an expert's rows.
struct WeightGradient {
  const float *inputs, *d_outputs;
  float* weights;
  int64_t n_inputs, n_outputs;
};

// The columns [first, end) of one expert's gradient.
struct Block {
  WeightGradient of;
  Rows rows;
  int64_t first, end;

  void compute() const {
    const int64_t n_inputs = of.n_inputs, n_outputs = of.n_outputs;
    float* to = of.weights + rows.expert * n_inputs * n_outputs;
    if (rows.count == 0) {
      for (int64_t i = 0; i < n_inputs; ++i) {
        std::fill(to + i * n_outputs + first, to + i * n_outputs + end, 0.0f);
      }
    }
    for (int64_t row = 0; row < rows.count; row += kDepth) {
      const int64_t depth = std::min(kDepth, rows.count - row);
      const Panels columns{end - first};
      for (int64_t p = 0; p < columns.count(); ++p) {
        const int64_t column = first + columns.start(p, 1);
        if (row == 0) {
          add_panel<false>(rows.start + row, depth, column, columns.live(p), to);
        } else {
          add_panel<true>(rows.start + row, depth, column, columns.live(p), to);
        }
      }
    }
  }

 private:
  // `width` columns of the outputs' gradients side by side, and zeros up to whole vectors.
  const float* pack_outputs(int64_t row, int64_t depth, int64_t column, int64_t width) const {
    const int64_t whole = width - width % kLanes, padded = Padded(width);
    float* packed = Scratch<0>(depth * padded);
    const float* from = of.d_outputs + row * of.n_outputs + column;
    for (int64_t k = 0; k < depth; ++k, from += of.n_outputs) {
      float* to = packed + k * padded;
      for (int64_t j = 0; j < whole; j += kLanes) Store(to + j, Load(from + j));
      if (whole < width) Store(to + whole, LoadFirst(from + whole, width - whole));
    }
    return packed;
  }

  // `width` columns from `column` on: to = inputs^T d_outputs, or to += that.
  template <bool kAdd>
  void add_panel(int64_t row, int64_t depth, int64_t column, int64_t width, float* to) const {
    const int64_t padded = Padded(width), stride = of.n_outputs;
    const float* panel = pack_outputs(row, depth, column, width);
    for (int64_t i = 0; i < of.n_inputs; i += kHeight) {
      const int64_t height = std::min<int64_t>(kHeight, of.n_inputs - i);
      const Scalars<Order::kColumnMajor> strip{of.inputs + row * of.n_inputs + i, of.n_inputs};
      float* tile = to + i * stride + column;
      if (width == padded) {
        Multiply<kAdd>(height, padded / kLanes, depth, strip, panel, tile, stride);
      } else {
        add_narrow_tile<kAdd>(height, width, depth, strip, panel, tile);
      }
    }
  }

  // A tile whose last vector reaches over the end of the columns.
  template <bool kAdd>
  void add_narrow_tile(int64_t height, int64_t width, int64_t depth,
                       Scalars<Order::kColumnMajor> strip, const float* panel, float* tile) const {
    float whole[kHeight * kPanel];
    Multiply<false>(height, Padded(width) / kLanes, depth, strip, panel, whole, kPanel);
    for (int64_t i = 0; i < height; ++i) {
      for (int64_t j = 0; j < width; ++j) {
        float& to = tile[i * of.n_outputs + j];
        to = whole[i * kPanel + j] + (kAdd ? to : 0.0f);
      }
    }
  }
};

// Blocks of all gradients: as wide as leaves every thread a few of them.
inline std::vector<Block> Blocks(const std::vector<WeightGradient>& gradients,
                                 const std::vector<Rows>& groups, int64_t threads) {
  const int64_t each = threads * kTasksPerThread / (gradients.size() * groups.size()) + 1;
  std::vector<Block> blocks;
  for (const Rows& rows : groups) {
    for (const WeightGradient& of : gradients) {
      const int64_t panels = (of.n_outputs + kPanel - 1) / kPanel;
      const int64_t width = std::clamp(panels / each, int64_t{1}, kMostPanels) * kPanel;
      for (int64_t first = 0; first < of.n_outputs; first += width) {
        blocks.push_back({of, rows, first, std::min(first + width, of.n_outputs)});
      }
    }
  }
  return blocks;
}

}  // namespace cartesian_moe
