// The functions of kernels/activations.py, their slopes, and passes over arrays with them.

#pragma once

#include <string_view>

#include "vectors.h"

namespace cartesian_moe {

struct Point {
  Vector value, slope;
};

struct Silu {
  static Point At(Vector x) {
    const Vector sigmoid = 1.0f / (1.0f + Exp(-x));
    return {x * sigmoid, sigmoid * (1.0f + x * (1.0f - sigmoid))};
  }
};

struct Relu {
  static Point At(Vector x) {
    const Vector zero{}, one = zero + 1.0f;
    return {x < zero ? zero : x, x > zero ? one : zero};  // NaN stays NaN
  }
};

// x Phi(x), with erfc(z) = e^(-z^2) P(t), t = 1 / (1 + 0.345 z), for z >= 0. The coefficients are
// a least squares fit on 0 <= z <= 7; erfc is within 4e-9, before it is rounded.
struct Gelu {
  static Point At(Vector x) {
    const Vector zero{}, z = (x < zero ? -x : x) * 0.70710678f;
    const Vector t = 1.0f / (1.0f + 0.345f * z), bell = Exp(-z * z);
    Vector series = t * -0.218799776f + 0.906080328f;
    series = series * t - 0.911131361f;
    series = series * t + 0.885517220f;
    series = series * t - 0.108329517f;
    series = series * t + 0.257693655f;
    series = series * t + 0.188969450f;
    const Vector tail = 0.5f * bell * series * t;
    const Vector phi = x < zero ? tail : 1.0f - tail;
    return {x * phi, phi + x * bell * 0.39894228f};
  }
};

// What enters an activation, or its gradient; gate is null where there is none.
template <typename Float>
struct GateAndUp {
  Float *gate, *up;
};

// hidden = function(gate) * up, or function(up).
template <typename Function>
void Activate(int64_t count, GateAndUp<const float> pre, float* hidden) {
  for (int64_t i = 0; i < count; i += kLanes) {
    const int64_t lanes = count - i;
    const Vector up = LoadFirst(pre.up + i, lanes);
    const Vector value = pre.gate ? Function::At(LoadFirst(pre.gate + i, lanes)).value * up
                                  : Function::At(up).value;
    StoreFirst(hidden + i, value, lanes);
  }
}

// Puts the gradient in the place of `pre`, and hidden in that of its own gradient.
template <typename Function>
void Pull(int64_t count, float* hidden, GateAndUp<float> pre) {
  for (int64_t i = 0; i < count; i += kLanes) {
    const int64_t lanes = count - i;
    const Vector d_hidden = LoadFirst(hidden + i, lanes), up = LoadFirst(pre.up + i, lanes);
    if (pre.gate) {
      const Point point = Function::At(LoadFirst(pre.gate + i, lanes));
      StoreFirst(pre.gate + i, d_hidden * up * point.slope, lanes);
      StoreFirst(pre.up + i, d_hidden * point.value, lanes);
      StoreFirst(hidden + i, point.value * up, lanes);
    } else {
      const Point point = Function::At(up);
      StoreFirst(pre.up + i, d_hidden * point.slope, lanes);
      StoreFirst(hidden + i, point.value, lanes);
    }
  }
}

struct Activation {
  std::string_view name;
  void (*activate)(int64_t, GateAndUp<const float>, float*);
  void (*pull)(int64_t, float*, GateAndUp<float>);
};

inline constexpr Activation kActivations[] = {
    {"silu", Activate<Silu>, Pull<Silu>},
    {"relu", Activate<Relu>, Pull<Relu>},
    {"gelu", Activate<Gelu>, Pull<Gelu>},
};

// Null if there is none of this name.
inline const Activation* FindActivation(std::string_view name) {
  for (const Activation& activation : kActivations) {
    if (activation.name == name) return &activation;
  }
  return nullptr;
}

}  // namespace cartesian_moe
