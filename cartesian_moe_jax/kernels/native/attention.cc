// Causal attention in float32, forward and backward, for XLA on CPU: softmax(q k^T scale) v.
//
// A panel of queries lies in the lanes of vectors. Scores are [keys][queries], as far as the last
// query of the panel sees; so the softmax goes down the rows, a vector of queries at a time.

#include <cmath>
#include <limits>

#include "panels.h"
#include "parallel.h"

namespace cartesian_moe {

namespace ffi = xla::ffi;
using Floats = ffi::Buffer<ffi::F32>;
using Result = ffi::ResultBuffer<ffi::F32>;

constexpr float kNone = -std::numeric_limits<float>::infinity();

// Arrays [batch][seq][heads][d_head], of which one head of one sequence is read.
struct Shape {
  int64_t batch, seq, heads, d_head;

  static Shape Of(Floats array) {
    const auto sizes = array.dimensions();
    return {sizes[0], sizes[1], sizes[2], sizes[3]};
  }
  int64_t stride() const { return heads * d_head; }
  int64_t count() const { return batch * heads; }
  int64_t start(int64_t head) const {
    return head / heads * seq * stride() + head % heads * d_head;
  }
  float scale() const { return 1.0f / std::sqrt(static_cast<float>(d_head)); }
  Scalars<Order::kRowMajor> by_position(const float* head) const { return {head, stride()}; }
  Scalars<Order::kColumnMajor> by_feature(const float* head) const { return {head, stride()}; }
};

// Queries first to first + live - 1 of one head, and the keys that they see.
struct Queries {
  Shape shape;
  int64_t first;

  int64_t live() const { return std::min(kPanel, shape.seq - first); }
  int64_t keys() const { return first + live(); }
  int64_t width() const { return Padded(live()); }

  // [d_head][width] from the rows of this head; lanes without a query are zero.
  void turn(const float* head, float* panel) const {
    if (live() < width()) std::fill_n(panel, shape.d_head * width(), 0.0f);
    Transpose(head + first * shape.stride(), shape.stride(), live(), shape.d_head, panel, width());
  }
  void turn_back(const float* panel, float* head) const {
    Transpose(panel, width(), shape.d_head, live(), head + first * shape.stride(), shape.stride());
  }

  // to [keys][width] = rows of keys or values times a panel.
  void multiply(const float* head, const float* panel, float* to) const {
    Multiply<false>(keys(), width() / kLanes, shape.d_head, shape.by_position(head), panel, to,
                    width());
  }
  // to [d_head][width] = transposed rows of keys or values times [keys][width].
  void gather(const float* head, const float* weights, float* to) const {
    Multiply<false>(shape.d_head, width() / kLanes, keys(), shape.by_feature(head), weights, to,
                    width());
  }

  // Puts -inf where a query does not see a key. Lanes without a query see all.
  void mask(float* scores) const {
    for (int64_t key = first + 1; key < keys(); ++key) {
      std::fill_n(scores + key * width(), key - first, kNone);
    }
  }
};

// In place of scores e^(scale (score - most)); `most` and `sums` get one value for each query.
void Softmax(const Queries& queries, float* scores, float* most, float* sums) {
  const int64_t width = queries.width(), keys = queries.keys();
  const float scale = queries.shape.scale();
  for (int64_t lane = 0; lane < width; lane += kLanes) {
    Vector highest = Load(scores + lane);
    for (int64_t key = 1; key < keys; ++key) {
      const Vector score = Load(scores + key * width + lane);
      highest = score > highest ? score : highest;
    }
    Vector sum{};
    for (int64_t key = 0; key < keys; ++key) {
      float* score = scores + key * width + lane;
      const Vector weight = Exp((Load(score) - highest) * scale);
      Store(score, weight);
      sum += weight;
    }
    Store(most + lane, highest);
    Store(sums + lane, sum);
  }
}

// `most` and `inverses` of the sums, [seq] each, are what the backward pass needs of the softmax.
void AttendForward(const Queries& queries, const float* query, const float* key,
                   const float* value, float* output, float* most, float* inverses) {
  const int64_t width = queries.width(), d_head = queries.shape.d_head;
  float* panel = Scratch<0>(d_head * width);
  float* scores = Scratch<1>(queries.keys() * width);
  float highest[kPanel], sums[kPanel];
  queries.turn(query, panel);
  queries.multiply(key, panel, scores);
  queries.mask(scores);
  Softmax(queries, scores, highest, sums);
  queries.gather(value, scores, panel);
  for (int64_t lane = 0; lane < width; lane += kLanes) {
    const Vector inverse = 1.0f / Load(sums + lane);
    for (int64_t i = 0; i < d_head; ++i) {
      float* read = panel + i * width + lane;
      Store(read, Load(read) * inverse);
    }
    StoreFirst(inverses + queries.first + lane, inverse, queries.live() - lane);
    StoreFirst(most + queries.first + lane, Load(highest + lane), queries.live() - lane);
  }
  queries.turn_back(panel, output);
}

// Turns scores to weights, and the weights' gradients to those of scores.
void PullSoftmax(const Queries& queries, const float* most, const float* inverses, float* scores,
                 float* gradients) {
  const int64_t width = queries.width(), keys = queries.keys();
  const float scale = queries.shape.scale();
  for (int64_t lane = 0; lane < width; lane += kLanes) {
    const int64_t lanes = queries.live() - lane;
    const Vector highest = LoadFirst(most + queries.first + lane, lanes);
    const Vector inverse = LoadFirst(inverses + queries.first + lane, lanes);  // zero: no query
    Vector mean{};
    for (int64_t key = 0; key < keys; ++key) {
      float* score = scores + key * width + lane;
      const Vector weight = Exp((Load(score) - highest) * scale) * inverse;
      Store(score, weight);
      mean += weight * Load(gradients + key * width + lane);
    }
    for (int64_t key = 0; key < keys; ++key) {
      float* gradient = gradients + key * width + lane;
      Store(gradient, Load(scores + key * width + lane) * (Load(gradient) - mean) * scale);
    }
  }
}

// Sums over queries of [keys][queries] times rows of queries, for one head.
class KeySums {
 public:
  KeySums(const Shape& shape, float* memory) : shape_(shape), sums_(memory) {
    std::fill_n(sums_, size(shape), 0.0f);
  }
  static int64_t size(const Shape& shape) { return shape.seq * Padded(shape.d_head); }

  void add(const Queries& queries, const float* weights, const float* head, float* packed) const {
    const int64_t live = queries.live();
    const float* rows = head + queries.first * shape_.stride();
    for (int64_t column = 0; column < shape_.d_head; column += kPanel) {
      const int64_t columns = std::min(kPanel, shape_.d_head - column), padded = Padded(columns);
      for (int64_t i = 0; i < live; ++i) {
        for (int64_t j = 0; j < padded; j += kLanes) {
          const float* from = rows + i * shape_.stride() + column + j;
          Store(packed + i * padded + j, LoadFirst(from, columns - j));
        }
      }
      const Scalars<Order::kRowMajor> by_key{weights, queries.width()};
      Multiply<true>(queries.keys(), padded / kLanes, live, by_key, packed,
                     sums_ + column * shape_.seq, padded);
    }
  }

  void write(float* head) const {
    for (int64_t column = 0; column < shape_.d_head; column += kPanel) {
      const int64_t columns = std::min(kPanel, shape_.d_head - column), padded = Padded(columns);
      const float* from = sums_ + column * shape_.seq;
      for (int64_t i = 0; i < shape_.seq; ++i) {
        std::copy_n(from + i * padded, columns, head + i * shape_.stride() + column);
      }
    }
  }

 private:
  const Shape& shape_;
  float* sums_;  // panels of columns, each [seq][padded]
};

struct Head {
  const float *query, *key, *value, *d_output, *most, *inverses;
  float *d_query, *d_key, *d_value;
};

void AttendBackward(const Shape& shape, const Head& head) {
  const int64_t sums = KeySums::size(shape);
  float* memory = Scratch<2>(2 * sums + kPanel * kPanel);
  const KeySums d_keys(shape, memory), d_values(shape, memory + sums);
  float* packed = memory + 2 * sums;
  float* panel = Scratch<0>(shape.d_head * kPanel);
  float* weights = Scratch<1>(2 * shape.seq * kPanel);
  for (int64_t first = 0; first < shape.seq; first += kPanel) {
    const Queries queries{shape, first};
    float* d_scores = weights + queries.keys() * queries.width();
    queries.turn(head.query, panel);
    queries.multiply(head.key, panel, weights);
    queries.mask(weights);
    queries.turn(head.d_output, panel);
    queries.multiply(head.value, panel, d_scores);
    PullSoftmax(queries, head.most, head.inverses, weights, d_scores);
    queries.gather(head.key, d_scores, panel);
    queries.turn_back(panel, head.d_query);
    d_keys.add(queries, d_scores, head.query, packed);
    d_values.add(queries, weights, head.d_output, packed);
  }
  d_keys.write(head.d_key);
  d_values.write(head.d_value);
}

ffi::Error Attend(ffi::ThreadPool pool, Floats query, Floats key, Floats value, Result output,
                  Result most, Result inverses) {
  const Shape shape = Shape::Of(query);
  const int64_t panels = (shape.seq + kPanel - 1) / kPanel;
  ForEachTask(pool, shape.count() * panels, [&](int64_t task) {
    const int64_t head = task / panels, at = shape.start(head), row = head * shape.seq;
    AttendForward({shape, task % panels * kPanel}, query.typed_data() + at,
                  key.typed_data() + at, value.typed_data() + at, output->typed_data() + at,
                  most->typed_data() + row, inverses->typed_data() + row);
  });
  return ffi::Error::Success();
}

ffi::Error AttendGradients(ffi::ThreadPool pool, Floats query, Floats key, Floats value,
                           Floats most, Floats inverses, Floats d_output, Result d_query,
                           Result d_key, Result d_value) {
  const Shape shape = Shape::Of(query);
  ForEachTask(pool, shape.count(), [&](int64_t head) {
    const int64_t at = shape.start(head), row = head * shape.seq;
    AttendBackward(shape, {query.typed_data() + at, key.typed_data() + at,
                           value.typed_data() + at, d_output.typed_data() + at,
                           most.typed_data() + row, inverses.typed_data() + row,
                           d_query->typed_data() + at, d_key->typed_data() + at,
                           d_value->typed_data() + at});
  });
  return ffi::Error::Success();
}

}  // namespace cartesian_moe

using cartesian_moe::Floats;

XLA_FFI_DEFINE_HANDLER_SYMBOL(cartesian_moe_attend, cartesian_moe::Attend,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<Floats>()  // query
                                  .Arg<Floats>()  // key
                                  .Arg<Floats>()  // value
                                  .Ret<Floats>()  // output
                                  .Ret<Floats>()  // most, [batch, heads, seq]
                                  .Ret<Floats>());  // inverses

XLA_FFI_DEFINE_HANDLER_SYMBOL(cartesian_moe_attend_gradients, cartesian_moe::AttendGradients,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<Floats>()  // query
                                  .Arg<Floats>()  // key
                                  .Arg<Floats>()  // value
                                  .Arg<Floats>()  // most
                                  .Arg<Floats>()  // inverses
                                  .Arg<Floats>()  // d_output
                                  .Ret<Floats>()  // d_query
                                  .Ret<Floats>()  // d_key
                                  .Ret<Floats>());  // d_value
