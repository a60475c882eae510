// Rows with their numbers in the lanes of vectors.

#pragma once

#include "products.h"

namespace cartesian_moe {

// `rows` rows cut into panels of equal width, the last of which may be narrower. A panel is a
// matrix [features][width], whose width is that of whole vectors, at most kPanel; the panels of an
// array follow one another.
struct Panels {
  int64_t rows;

  int64_t count() const { return (rows + kPanel - 1) / kPanel; }
  int64_t widest() const { return count() ? Padded((rows + count() - 1) / count()) : 0; }
  int64_t live(int64_t panel) const { return std::min(widest(), rows - panel * widest()); }
  int64_t width(int64_t panel) const { return Padded(live(panel)); }
  int64_t start(int64_t panel, int64_t features) const { return panel * widest() * features; }
  int64_t padded() const { return Padded(rows); }

  // From rows [rows][features] to panels; lanes without a row are zero.
  void pack(const float* from, int64_t features, float* to) const {
    for (int64_t p = 0; p < count(); ++p) {
      float* panel = to + start(p, features);
      if (live(p) < width(p)) std::fill_n(panel, width(p) * features, 0.0f);
      Transpose(from + start(p, features), features, live(p), features, panel, width(p));
    }
  }

  // From panels to rows [rows][features].
  void unpack(const float* from, int64_t features, float* to) const {
    for (int64_t p = 0; p < count(); ++p) {
      Transpose(from + start(p, features), width(p), features, live(p),
                to + start(p, features), features);
    }
  }

  // to = A from, or to += A from: from `depth` features to `height`.
  template <bool kAdd, Order kOrder>
  void multiply(Scalars<kOrder> a, int64_t height, int64_t depth, const float* from,
                float* to) const {
    for (int64_t i = 0; i < height; i += kHeight) {
      for (int64_t p = 0; p < count(); ++p) {
        Multiply<kAdd>(std::min<int64_t>(kHeight, height - i), width(p) / kLanes, depth, a.from_row(i),
                       from + start(p, depth), to + start(p, height) + i * width(p), width(p));
      }
    }
  }
};

}  // namespace cartesian_moe
