// Rows sorted by expert, and how threads share them.

#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "panels.h"

namespace cartesian_moe {

constexpr int64_t kMostPanels = 4;  // their inputs and hidden values stay in a core's own cache
constexpr int64_t kTasksPerThread = 4;

// Rows of one expert.
struct Rows {
  int64_t expert, start, count;
};

inline std::vector<Rows> Groups(const int32_t* sizes, int64_t experts) {
  std::vector<Rows> groups;
  int64_t start = 0;
  for (int64_t expert = 0; expert < experts; ++expert) {
    groups.push_back({expert, start, sizes[expert]});
    start += sizes[expert];
  }
  return groups;
}

inline int64_t LiveRows(const std::vector<Rows>& groups) {
  return groups.empty() ? 0 : groups.back().start + groups.back().count;
}

// The groups cut into pieces of nearly equal height, enough of them for all threads.
inline std::vector<Rows> Pieces(const std::vector<Rows>& groups, int64_t threads) {
  const int64_t wanted = LiveRows(groups) / (threads * kTasksPerThread) / kPanel;
  const int64_t most = std::clamp(wanted, int64_t{1}, kMostPanels) * kPanel;
  std::vector<Rows> pieces;
  for (const auto& [expert, start, count] : groups) {
    const int64_t number = (count + most - 1) / most;
    const int64_t height = number ? Padded((count + number - 1) / number) : 1;
    for (int64_t at = 0; at < count; at += height) {
      pieces.push_back({expert, start + at, std::min(height, count - at)});
    }
  }
  return pieces;
}

}  // namespace cartesian_moe
