// Loops over independent tasks on XLA's threads, and memory that each thread keeps.

#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <type_traits>
#include <vector>

#include "xla/ffi/api/ffi.h"

namespace cartesian_moe {

// Runs body(0) to body(tasks - 1); whichever thread is free takes the next. The caller works too,
// so that it never waits for a thread that does not come.
template <typename Body>
void ForEachTask(xla::ffi::ThreadPool& pool, int64_t tasks, const Body& body) {
  struct Progress {
    std::atomic<int64_t> taken{0}, done{0};
  };
  // A helper that comes after the last task touches nothing but this.
  const auto progress = std::make_shared<Progress>();
  const auto work = [progress, tasks, &body] {
    for (int64_t task; (task = progress->taken++) < tasks;) {
      body(task);
      if (++progress->done == tasks) progress->done.notify_all();
    }
  };
  const int64_t helpers = std::min<int64_t>(pool.num_threads(), tasks) - 1;
  for (int64_t i = 0; i < helpers; ++i) pool.Schedule(std::remove_const_t<decltype(work)>(work));
  work();
  for (int64_t done; (done = progress->done) < tasks;) progress->done.wait(done);
}

// At least `count` floats with any values, of which every thread has its own in each slot.
template <int kSlot>
float* Scratch(int64_t count) {
  static thread_local std::vector<float> memory;
  if (memory.size() < static_cast<size_t>(count)) memory = std::vector<float>(count);
  return memory.data();
}

}  // namespace cartesian_moe
