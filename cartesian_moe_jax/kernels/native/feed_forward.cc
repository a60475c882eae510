// The grouped feed-forward of kernels/grouped.py in float32, forward and backward, for XLA on CPU.

#include "activations.h"
#include "parallel.h"
#include "rows.h"
#include "weight_gradients.h"

namespace cartesian_moe {

namespace ffi = xla::ffi;
using Floats = ffi::Buffer<ffi::F32>;
using Sizes = ffi::Buffer<ffi::S32>;
using Result = ffi::ResultBuffer<ffi::F32>;

// Null for what is not there, which is an array without elements.
float* DataOf(Floats array) { return array.element_count() ? array.typed_data() : nullptr; }

// The weights of one expert as the A of products. A weight is [inputs][outputs].
struct Expert {
  const float *gate, *up, *down;
  int64_t d_model, d_expert;

  static Expert Of(int64_t expert, Floats gate, Floats up, Floats down) {
    const int64_t d_model = up.dimensions()[1], d_expert = up.dimensions()[2];
    const int64_t at = expert * d_model * d_expert;
    return {gate.element_count() ? gate.typed_data() + at : nullptr, up.typed_data() + at,
            down.typed_data() + at, d_model, d_expert};
  }
};

Scalars<Order::kColumnMajor> ToOutputs(const float* weight, int64_t outputs) {
  return {weight, outputs};
}
Scalars<Order::kRowMajor> ToInputs(const float* weight, int64_t outputs) {
  return {weight, outputs};
}

// Rows behind the live ones come out as zeros.
void ZeroBehind(const std::vector<Rows>& groups, Result array) {
  const int64_t live = LiveRows(groups) * array->dimensions()[1];
  std::fill(array->typed_data() + live, array->typed_data() + array->element_count(), 0.0f);
}

// `pre` is where what enters the activation is kept; null where it is not.
void ForwardPiece(int64_t count, const Expert& expert, const Activation& activation,
                  const float* rows, GateAndUp<float> pre, float* output) {
  const auto& [w_gate, w_up, w_down, d_model, d_expert] = expert;
  const Panels panels{count};
  float* x = Scratch<0>(panels.padded() * d_model);
  float* up = Scratch<1>(panels.padded() * d_expert);
  float* gate = w_gate ? Scratch<2>(panels.padded() * d_expert) : nullptr;
  panels.pack(rows, d_model, x);
  panels.multiply<false>(ToOutputs(w_up, d_expert), d_expert, d_model, x, up);
  if (gate) panels.multiply<false>(ToOutputs(w_gate, d_expert), d_expert, d_model, x, gate);
  if (pre.up) panels.unpack(up, d_expert, pre.up);
  if (pre.up && gate) panels.unpack(gate, d_expert, pre.gate);
  float* hidden = up;
  activation.activate(panels.padded() * d_expert, {gate, up}, hidden);
  float* y = x;
  panels.multiply<false>(ToOutputs(w_down, d_model), d_model, d_expert, hidden, y);
  panels.unpack(y, d_model, output);
}

// `pre` is overwritten with its gradient; `hidden` gets the hidden values.
void ToRowsPiece(int64_t count, const Expert& expert, const Activation& activation,
                 const float* d_output, GateAndUp<float> pre, float* hidden, float* d_rows) {
  const auto& [w_gate, w_up, w_down, d_model, d_expert] = expert;
  const Panels panels{count};
  float* d_y = Scratch<0>(panels.padded() * d_model);
  float* wide = Scratch<1>(panels.padded() * d_expert);
  panels.pack(d_output, d_model, d_y);
  panels.multiply<false>(ToInputs(w_down, d_model), d_expert, d_model, d_y, wide);
  panels.unpack(wide, d_expert, hidden);
  activation.pull(count * d_expert, hidden, pre);
  float* d_x = d_y;
  panels.pack(pre.up, d_expert, wide);
  panels.multiply<false>(ToInputs(w_up, d_expert), d_model, d_expert, wide, d_x);
  if (w_gate) {
    panels.pack(pre.gate, d_expert, wide);
    panels.multiply<true>(ToInputs(w_gate, d_expert), d_model, d_expert, wide, d_x);
  }
  panels.unpack(d_x, d_model, d_rows);
}

GateAndUp<float> At(GateAndUp<float> pre, int64_t offset) {
  return {pre.gate ? pre.gate + offset : nullptr, pre.up ? pre.up + offset : nullptr};
}

ffi::Error NoSuchActivation(std::string_view name) {
  return ffi::Error::InvalidArgument("activation '" + std::string(name) + "' is not compiled");
}

ffi::Error Forward(ffi::ThreadPool pool, std::string_view function, Floats rows, Sizes sizes,
                   Floats gate, Floats up, Floats down, Result output, Result pre_gate,
                   Result pre_up) {
  const Activation* activation = FindActivation(function);
  if (!activation) return NoSuchActivation(function);
  const int64_t d_model = rows.dimensions()[1], d_expert = up.dimensions()[2];
  const auto groups = Groups(sizes.typed_data(), sizes.dimensions()[0]);
  const auto pieces = Pieces(groups, pool.num_threads());
  const GateAndUp<float> pre{DataOf(*pre_gate), DataOf(*pre_up)};
  ForEachTask(pool, pieces.size(), [&](int64_t i) {
    const auto& [expert, start, count] = pieces[i];
    ForwardPiece(count, Expert::Of(expert, gate, up, down), *activation,
                 rows.typed_data() + start * d_model, At(pre, start * d_expert),
                 output->typed_data() + start * d_model);
  });
  ZeroBehind(groups, output);
  return ffi::Error::Success();
}

// d_gate and d_up are in the place of what enters the activation.
ffi::Error ToRows(ffi::ThreadPool pool, std::string_view function, Floats d_output, Sizes sizes,
                  Floats gate, Floats up, Floats down, Floats, Floats, Result d_rows,
                  Result hidden, Result d_gate, Result d_up) {
  const Activation* activation = FindActivation(function);
  if (!activation) return NoSuchActivation(function);
  const int64_t d_model = d_output.dimensions()[1], d_expert = up.dimensions()[2];
  const auto groups = Groups(sizes.typed_data(), sizes.dimensions()[0]);
  const auto pieces = Pieces(groups, pool.num_threads());
  const GateAndUp<float> pre{DataOf(*d_gate), DataOf(*d_up)};
  ForEachTask(pool, pieces.size(), [&](int64_t i) {
    const auto& [expert, start, count] = pieces[i];
    ToRowsPiece(count, Expert::Of(expert, gate, up, down), *activation,
                d_output.typed_data() + start * d_model, At(pre, start * d_expert),
                hidden->typed_data() + start * d_expert, d_rows->typed_data() + start * d_model);
  });
  ZeroBehind(groups, d_rows);
  return ffi::Error::Success();
}

// The gradient of every weight, as long as the rows of its inputs and of its outputs' gradients.
ffi::Error ToWeights(ffi::ThreadPool pool, Floats rows, Floats d_output, Sizes sizes,
                     Floats hidden, Floats d_gate, Floats d_up, Result w_gate, Result w_up,
                     Result w_down) {
  const auto groups = Groups(sizes.typed_data(), sizes.dimensions()[0]);
  std::vector<WeightGradient> gradients;
  const auto add = [&](Floats inputs, Floats d_outputs, Result weights) {
    if (weights->element_count() == 0) return;
    gradients.push_back({inputs.typed_data(), d_outputs.typed_data(), weights->typed_data(),
                         inputs.dimensions()[1], d_outputs.dimensions()[1]});
  };
  add(rows, d_gate, w_gate);
  add(rows, d_up, w_up);
  add(hidden, d_output, w_down);
  const auto blocks = Blocks(gradients, groups, pool.num_threads());
  ForEachTask(pool, blocks.size(), [&](int64_t i) { blocks[i].compute(); });
  return ffi::Error::Success();
}

}  // namespace cartesian_moe

using cartesian_moe::Floats;
using cartesian_moe::Sizes;

XLA_FFI_DEFINE_HANDLER_SYMBOL(cartesian_moe_forward, cartesian_moe::Forward,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Attr<std::string_view>("function")
                                  .Arg<Floats>()  // rows
                                  .Arg<Sizes>()
                                  .Arg<Floats>()  // gate
                                  .Arg<Floats>()  // up
                                  .Arg<Floats>()  // down
                                  .Ret<Floats>()  // output
                                  .Ret<Floats>()  // pre_gate
                                  .Ret<Floats>());  // pre_up

XLA_FFI_DEFINE_HANDLER_SYMBOL(cartesian_moe_to_rows, cartesian_moe::ToRows,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Attr<std::string_view>("function")
                                  .Arg<Floats>()  // d_output
                                  .Arg<Sizes>()
                                  .Arg<Floats>()  // gate
                                  .Arg<Floats>()  // up
                                  .Arg<Floats>()  // down
                                  .Arg<Floats>()  // pre_gate, which becomes d_gate
                                  .Arg<Floats>()  // pre_up, which becomes d_up
                                  .Ret<Floats>()  // d_rows
                                  .Ret<Floats>()  // hidden
                                  .Ret<Floats>()  // d_gate
                                  .Ret<Floats>());  // d_up

XLA_FFI_DEFINE_HANDLER_SYMBOL(cartesian_moe_to_weights, cartesian_moe::ToWeights,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<Floats>()  // rows
                                  .Arg<Floats>()  // d_output
                                  .Arg<Sizes>()
                                  .Arg<Floats>()  // hidden
                                  .Arg<Floats>()  // d_gate
                                  .Arg<Floats>()  // d_up
                                  .Ret<Floats>()  // gate
                                  .Ret<Floats>()  // up
                                  .Ret<Floats>());  // down
