// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <ATen/Parallel.h>
#include <ATen/TensorIterator.h>
#include <ATen/ops/empty.h>

#include <cstdint>

namespace bsconv::detail {

/// Calls `function(begin, end)` for parts of `0` to `count` on LibTorch's threads, at most
/// `at::get_num_threads()` of them. Each thread gets one part.
///
/// `at::parallel_for` is a template that runs on one thread in code compiled without OpenMP, as a
/// user's is. The loop of a `TensorIterator` is compiled into LibTorch; here it goes over a tensor
/// of `count` bytes, whose addresses tell the part.
template <class Function>
void parallel_for(int64_t count, const Function& function) {
  if (count <= 0) {
    return;
  }
  if (count == 1 || at::get_num_threads() == 1 || at::in_parallel_region()) {
    function(int64_t{0}, count);
    return;
  }
  const at::Tensor places = at::empty({count}, at::kByte);
  auto iterator = at::TensorIteratorConfig()
                      .set_check_mem_overlap(false)
                      .check_all_same_dtype(false)
                      .resize_outputs(false)
                      .add_output(places)
                      .build();
  const char* first = static_cast<const char*>(places.const_data_ptr());
  iterator.for_each(
      [&](char** data, const int64_t*, int64_t size, int64_t rows) {
        const int64_t begin = data[0] - first;
        function(begin, begin + size * rows);
      },
      /*grain_size=*/1);
}

}  // namespace bsconv::detail
