// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/types.h>
#include <bsconv/autograd/channels_last.hpp>

#include <cstdint>

namespace bsconv::gpu {

/// `images` `[N, C, H, W]` as kernels take them: channels_last, and at an address that four
/// elements divide, which are read at once. A copy where they lie otherwise, as views from the
/// middle of another tensor may; undefined if they are.
inline torch::Tensor kernel_images(const torch::Tensor& images) {
  const auto made = bsconv::detail::channels_last_if_any(images);
  const bool lies_well =
      !made.defined() ||
      reinterpret_cast<std::uintptr_t>(made.const_data_ptr()) % (4 * made.element_size()) == 0;
  return lies_well ? made : made.clone();
}

}  // namespace bsconv::gpu
