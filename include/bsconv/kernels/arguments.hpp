// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <cstdint>

/// \file
/// What the compute kernels take. Images are `[H, W, C]`: the channels of a pixel lie together,
/// padded to whole vectors. All distances are in floats.

namespace bsconv::kernels {

/// An activation that a kernel applies to its results.
enum class Activation : int32_t {
  /// `x`
  identity,
  /// `max(x, 0)`
  relu,
  /// `min(max(x, 0), 6)`
  relu6,
  /// `x * relu6(x + 3) / 6`
  hardswish,
  /// `relu6(x + 3) / 6`
  hardsigmoid,
};

/// A region of an image: its first value and the distances to the next row and the next pixel.
template <class Float>
struct Image {
  /// The first value, or null if there is no image.
  Float* data = nullptr;
  /// From a row to the next.
  int64_t row = 0;
  /// From a pixel to the next.
  int64_t pixel = 0;
};

/// Memory that is needed soon: while a kernel computes, it is fetched into the second-level cache.
struct Prefetch {
  /// Where it begins.
  const float* data = nullptr;
  /// Floats for each pixel of the kernel; they lie together.
  int64_t pixel = 0;
};

/// What happens to results: `after(before(x) + residual)`.
struct Epilogue {
  /// Applied first.
  Activation before = Activation::identity;
  /// Applied last.
  Activation after = Activation::identity;
  /// Added in between; the size of the output. May be absent.
  Image<const float> residual;
  /// Where results go in bf16; the size of the output. May be absent, and is for kernels without
  /// `KernelTable::round`. If it is there, the output may be absent.
  Image<uint16_t> rounded;
};

/// A convolution that sums over channels, for some rows and one panel of output channels.
///
/// The window of an output pixel consists of segments of `depth` adjacent floats; `input` has the
/// distances between windows, the stride included. A pointwise convolution has one segment.
struct Convolution {
  /// The windows; `data` is where offsets of the first one count from.
  Image<const float> input;
  /// The offset of each segment in a window.
  const int64_t* segments = nullptr;
  /// The number of segments.
  int64_t segment_count = 1;
  /// Floats in a segment.
  int64_t depth = 0;
  /// `[segment_count * depth, vectors * width]`
  const float* weights = nullptr;
  /// `[vectors * width]`
  const float* bias = nullptr;
  /// Where results go; whole vectors are written.
  Image<float> output;
  /// From a vector of a pixel of the output to the next.
  int64_t output_vector = 0;
  /// Rows of output.
  int64_t rows = 0;
  /// Pixels in a row of output.
  int64_t pixels = 0;
  /// Vectors of output channels in the panel, 1 to 4.
  int64_t vectors = 1;
  /// The windows in bf16, at the same distances, where each float of `weights` holds the bf16
  /// numbers of two adjacent ones of a segment; see `KernelTable::round`. Otherwise null.
  const uint16_t* rounded = nullptr;
  /// Whether sums start from the bias; otherwise from what `output` holds.
  bool first = true;
  /// Whether the sums are complete, so that the epilogue follows.
  bool last = true;
  /// What happens to the results.
  Epilogue epilogue;
  /// What is needed soon.
  Prefetch prefetch[2];
};

/// A convolution of each channel on its own, for some rows and channels.
struct Depthwise {
  /// The first value of the first window. Each vector of channels is an image of its own, whose
  /// pixels lie together.
  const float* input = nullptr;
  /// From a row of the input to the next, and from an image to the next.
  int64_t input_row = 0;
  /// Floats from a vector's image to the next.
  int64_t input_vector = 0;
  /// Height and width of the kernel, stride and dilation.
  int64_t kernel[2] = {3, 3};
  /// Pixels from a window to the next, down and across.
  int64_t stride[2] = {1, 1};
  /// Pixels between the taps of the kernel.
  int64_t dilation[2] = {1, 1};
  /// `[vectors, kernel height * width, width of a vector]`
  const float* weights = nullptr;
  /// `[vectors * width]`
  const float* bias = nullptr;
  /// Where results go; whole vectors are written.
  Image<float> output;
  /// Rows of output.
  int64_t rows = 0;
  /// Pixels in a row of output.
  int64_t pixels = 0;
  /// Vectors of channels.
  int64_t vectors = 1;
  /// What happens to the results.
  Epilogue epilogue;
};

/// `after(before(x * scale + shift) + residual)` for each pixel.
struct Pointwise {
  /// The input.
  Image<const float> input;
  /// `[vectors * width]`, or null for ones.
  const float* scale = nullptr;
  /// `[vectors * width]`, or null for zeros.
  const float* shift = nullptr;
  /// Where results go; may be the input.
  Image<float> output;
  /// Rows of the image.
  int64_t rows = 0;
  /// Pixels in a row.
  int64_t pixels = 0;
  /// Vectors of channels.
  int64_t vectors = 1;
  /// What happens to the results.
  Epilogue epilogue;
};

/// The greatest or the summed values of windows, clipped to the image.
struct Pool {
  /// The image.
  Image<const float> input;
  /// Its rows and pixels in a row.
  int64_t height = 0;
  /// Pixels in a row.
  int64_t width = 0;
  /// Geometry of the windows.
  int64_t kernel[2] = {1, 1};
  /// Pixels from a window to the next, down and across.
  int64_t stride[2] = {1, 1};
  /// Pixels that windows reach beyond the image above and to the left.
  int64_t padding[2] = {0, 0};
  /// Pixels between the taps of the kernel.
  int64_t dilation[2] = {1, 1};
  /// Whether to take the greatest value; otherwise the mean.
  bool greatest = false;
  /// Whether a mean counts the padding.
  bool count_padding = true;
  /// What a mean divides by, or 0 for the window's size.
  int64_t divisor = 0;
  /// Where results go.
  Image<float> output;
  /// Rows of output, from `first_row` on.
  int64_t first_row = 0;
  /// Rows of output.
  int64_t rows = 0;
  /// Pixels in a row of output.
  int64_t pixels = 0;
  /// Vectors of channels.
  int64_t vectors = 1;
};

/// The kernels for one kind of processor.
struct KernelTable {
  /// The kind: "avx512", "avx2" or "baseline", "neon" on ARM; "avx512_bf16" for bf16.
  const char* name;
  /// Floats in a vector.
  int64_t width;
  /// Vector registers.
  int64_t registers;
  /// See `Convolution`.
  void (*convolve)(const Convolution&);
  /// See `Depthwise`.
  void (*depthwise)(const Depthwise&);
  /// See `Pointwise`.
  void (*pointwise)(const Pointwise&);
  /// See `Pool`.
  void (*pool)(const Pool&);
  /// Does `rounds` times 16 vectors of multiply-adds in registers, as fast as the processor can;
  /// to measure its peak. Returns a meaningless number.
  float (*multiply_adds)(int64_t rounds);
  /// Rounds `count` floats to bf16, for a `convolve` that computes with such; otherwise null.
  void (*round)(const float* from, int64_t count, uint16_t* to) = nullptr;
};

}  // namespace bsconv::kernels
