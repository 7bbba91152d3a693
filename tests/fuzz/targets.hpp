// SPDX-License-Identifier: BSD-3-Clause-Clear
// What is fuzzed: one function a reader. Each takes the bytes of a file as the reader would find
// them. `c10::Error` is the right answer to a damaged file; a crash, a sanitizer's report, another
// exception or more memory than libFuzzer is told to allow is a finding.
#pragma once

#include <c10/util/Exception.h>
#include <sys/mman.h>
#include <torch/types.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <filesystem>
#include <functional>
#include <iostream>
#include <map>
#include <span>
#include <sstream>
#include <string>
#include <string_view>
#include <system_error>
#include <variant>
#include <vector>

#include <bsconv/data/cifar_archive.hpp>
#include <bsconv/data/image_file.hpp>
#include <bsconv/data/matlab.hpp>
#include <bsconv/export/onnx_reader.hpp>
#include <bsconv/export/onnx_writer.hpp>
#include <bsconv/pretrained/model_card.hpp>
#include <bsconv/train/checkpoint.hpp>
#include <bsconv/weights.hpp>

namespace bsconv_fuzz {

using Bytes = std::span<const uint8_t>;

/// A file in memory, for readers that take a path.
class MemoryFile {
 public:
  explicit MemoryFile(Bytes bytes) : descriptor_(::memfd_create("bsconv-fuzz", MFD_CLOEXEC)) {
    const auto written = ::write(descriptor_, bytes.data(), bytes.size());
    TORCH_CHECK_VALUE(written == static_cast<ssize_t>(bytes.size()), "no memory for a file");
  }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;
  ~MemoryFile() { ::close(descriptor_); }

  std::filesystem::path path() const { return "/proc/self/fd/" + std::to_string(descriptor_); }

 private:
  int descriptor_;
};

/// A file that this process alone writes; goes with the object.
class TemporaryFile {
 public:
  TemporaryFile()
      : path_(std::filesystem::temp_directory_path() /
              ("bsconv-fuzz-" + std::to_string(::getpid()))) {}
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  ~TemporaryFile() {
    std::error_code error;
    std::filesystem::remove(path_, error);
  }

  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

/// Aborts, which is a finding, unless `right`.
inline void require(bool right) {
  if (!right) {
    std::abort();
  }
}

/// Runs what must succeed: an error in it is a finding, not the answer to a damaged file.
template <class Run>
auto sound(const Run& run) {
  try {
    return run();
  } catch (const std::exception& error) {
    std::cerr << error.what() << std::endl;
    std::abort();
  }
}

inline bool is_same(const torch::Tensor& a, const torch::Tensor& b) {
  return a.sizes() == b.sizes() && a.dtype() == b.dtype() &&
         (a.nbytes() == 0 || std::memcmp(a.contiguous().const_data_ptr(),
                                         b.contiguous().const_data_ptr(), a.nbytes()) == 0);
}

inline bool is_same(const bsconv::weights::StateDict& a, const bsconv::weights::StateDict& b) {
  return a.size() == b.size() && std::all_of(a.begin(), a.end(), [&b](const auto& item) {
           return b.contains(item.key()) && is_same(item.value(), b[item.key()]);
         });
}

/// Reads every value of what was loaded, unless few bytes repeat very often.
inline void touch(const bsconv::weights::StateDict& state) {
  for (const auto& item : state) {
    const auto& tensor = item.value();
    require(tensor.defined());
    if (tensor.numel() > 0 && tensor.numel() < 100'000) {
      const auto copy = tensor.contiguous();
      const auto* byte = static_cast<const uint8_t*>(copy.const_data_ptr());
      volatile uint8_t sum = 0;
      for (std::size_t i = 0; i < copy.nbytes(); ++i) {
        sum = static_cast<uint8_t>(sum + byte[i]);
      }
    }
  }
}

inline std::string_view text_of(Bytes bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

/// A safetensors file; what loads must survive being written and read again.
inline void safetensors(Bytes bytes) {
  namespace weights = bsconv::weights;
  if (bytes.size() > 8) {
    // From a heap block of the header's exact size, where the sanitizer sees each byte beyond.
    const std::string header(text_of(bytes.subspan(8)));
    try {
      weights::detail::parse_safetensors_header(header, uint64_t{1} << 20U, "header");
    } catch (const c10::Error&) {
    }
  }
  const MemoryFile file(bytes);
  const auto loaded = weights::load_safetensors(file.path());
  touch(loaded.tensors);
  sound([&loaded] {
    const TemporaryFile copy;
    weights::save_safetensors(copy.path(), loaded.tensors, loaded.metadata);
    const auto again = weights::load_safetensors(copy.path());
    require(again.metadata == loaded.metadata && is_same(again.tensors, loaded.tensors));
  });
}

/// A pickle, as it lies in a file of torch.save.
inline void pickle(Bytes bytes) {
  const std::vector<char> exact(bytes.begin(), bytes.end());
  const auto read =
      bsconv::weights::detail::PickleReader({exact.data(), exact.size()}, "pickle").read();
  require(read.root < read.values.size() && read.size <= bytes.size());
  for (const auto& value : read.values) {
    for (const auto item : value.items) {
      require(item < read.values.size());
    }
  }
}

/// A zip archive of stored entries.
inline void zip(Bytes bytes) {
  const std::vector<char> exact(bytes.begin(), bytes.end());
  const bsconv::weights::detail::ZipReader archive({exact.data(), exact.size()}, "zip");
  for (const auto& [name, entry] : archive.entries()) {
    require(archive.find(name) != nullptr);
    require(entry.data() >= exact.data() &&
            entry.data() + entry.size() <= exact.data() + exact.size());
  }
}

/// A whole file of torch.save.
inline void pth(Bytes bytes) {
  const MemoryFile file(bytes);
  touch(bsconv::weights::load_pth(file.path()));
}

/// The archive of a CIFAR set of two records, or, after a zero, one of its files.
inline void cifar(Bytes bytes) {
  namespace detail = bsconv::data::detail;
  const detail::CifarLayout layout{
      "CIFAR-2", "cifar", "cifar.tar.gz", {"train.bin"},   {"test.bin"},
      2,         2,       {2, 3},         "names_file.txt"};
  if (!bytes.empty() && bytes.front() != 0) {
    const MemoryFile file(bytes);
    const auto set = detail::load_cifar_archive(file.path(), layout, bsconv::data::Split::test);
    require(set.size() == 2 && set.labels().max().item<int64_t>() < 3);
    return;
  }
  bytes = bytes.subspan(bytes.empty() ? 0 : 1);
  std::istringstream names{std::string(text_of(bytes))};
  try {
    require(detail::parse_class_names(names, "names", "CIFAR-2", 3).size() == 3);
  } catch (const c10::Error&) {
  }
  std::istringstream stream{std::string(text_of(bytes))};
  std::vector<uint8_t> images(2 * detail::cifar_image_bytes);
  std::vector<int64_t> labels(2);
  detail::check_cifar_size(bytes.size(), 2, 2, "CIFAR-2", "file");
  detail::read_cifar_records(stream, "file", "CIFAR-2", 2, layout.label_counts, images.data(),
                             labels.data());
  require(labels[0] < 3 && labels[1] < 3);
}

/// A MATLAB file, as Stanford Dogs has its lists in.
inline void matlab(Bytes bytes) {
  const MemoryFile file(bytes);
  for (const auto& text : bsconv::data::read_matlab_texts(file.path(), "file_list")) {
    require(text.find('\0') == std::string::npos);
  }
}

/// An image after a byte that chooses how much of it is wanted.
inline void image(Bytes bytes) {
  namespace data = bsconv::data;
  TORCH_CHECK(!bytes.empty(), "no byte to choose by");
  const unsigned choice = bytes.front();
  const std::vector<uint8_t> file(bytes.begin() + 1, bytes.end());
  const auto part = [choice](data::ImageSize size) {
    data::detail::DecodeRequest request{{0, 0, size}, data::ImageSize(0)};
    auto& region = request.region;
    region.top = size.height * (choice & 3U) / 4;
    region.left = size.width * ((choice >> 2U) & 3U) / 4;
    region.size = {(size.height - region.top + 1) / 2, (size.width - region.left + 1) / 2};
    request.enough = data::ImageSize(static_cast<int64_t>(choice >> 4U));
    return request;
  };
  const auto pixels = choice == 0 ? data::decode_image(file, "image")
                                  : data::detail::decode_pixels(file, "image", part);
  require(pixels.dim() == 3 && pixels.numel() > 0);
}

inline bool is_same(const bsconv::onnx::Attribute& a, const bsconv::onnx::Attribute& b) {
  const auto* number = std::get_if<float>(&a);
  const auto* other = std::get_if<float>(&b);
  // NaN, too.
  return number != nullptr && other != nullptr
             ? std::bit_cast<uint32_t>(*number) == std::bit_cast<uint32_t>(*other)
             : a == b;
}

inline bool is_same(const bsconv::onnx::Node& a, const bsconv::onnx::Node& b) {
  return a.type == b.type && a.name == b.name && a.inputs == b.inputs && a.outputs == b.outputs &&
         std::equal(a.attributes.begin(), a.attributes.end(), b.attributes.begin(),
                    b.attributes.end(), [](const auto& one, const auto& other) {
                      return one.first == other.first && is_same(one.second, other.second);
                    });
}

inline bool is_same(const bsconv::onnx::Initializer& a, const bsconv::onnx::Initializer& b) {
  return a.name == b.name && a.type == b.type && a.sizes == b.sizes && is_same(a.data, b.data);
}

inline bool is_same(const bsconv::onnx::ValueInfo& a, const bsconv::onnx::ValueInfo& b) {
  return a.name == b.name && a.type == b.type && a.ranked == b.ranked &&
         std::equal(a.sizes.begin(), a.sizes.end(), b.sizes.begin(), b.sizes.end(),
                    [](const auto& one, const auto& other) {
                      return one.size == other.size && one.name == other.name;
                    });
}

template <class Item>
bool is_same(const std::vector<Item>& a, const std::vector<Item>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](const Item& one, const Item& other) { return is_same(one, other); });
}

/// An ONNX file; what loads must survive being written and read again, but for weights that lie
/// elsewhere.
inline void onnx(Bytes bytes) {
  const std::vector<char> exact(bytes.begin(), bytes.end());
  auto model = bsconv::onnx::from_bytes({exact.data(), exact.size()}, "onnx");
  sound([&] {
    std::erase_if(model.initializers, [](const auto& item) { return !item.data.defined(); });
    const auto again = bsconv::onnx::from_bytes(bsconv::onnx::to_bytes(model));
    require(again.ir_version == model.ir_version && again.opset == model.opset &&
            again.producer == model.producer && again.producer_version == model.producer_version &&
            again.graph_name == model.graph_name && again.metadata == model.metadata);
    require(is_same(again.nodes, model.nodes) && is_same(again.inputs, model.inputs) &&
            is_same(again.outputs, model.outputs) &&
            is_same(again.initializers, model.initializers));
  });
}

/// A checkpoint of a training; what loads must survive being written and read again.
inline void checkpoint(Bytes bytes) {
  const MemoryFile file(bytes);
  const auto loaded = bsconv::train::load_checkpoint(file.path());
  touch(loaded.model);
  sound([&loaded] {
    const TemporaryFile copy;
    bsconv::train::save_checkpoint(copy.path(), loaded);
    const auto again = bsconv::train::load_checkpoint(copy.path());
    require(is_same(again.model, loaded.model) && is_same(again.momentum, loaded.momentum) &&
            is_same(again.adamw, loaded.adamw) && is_same(again.ema, loaded.ema) &&
            is_same(again.scaler, loaded.scaler) && is_same(again.generators, loaded.generators));
    namespace detail = bsconv::train::detail;
    // As texts, in which there is no NaN, which equals nothing.
    require(detail::to_json(again).dump() == detail::to_json(loaded).dump());
  });
}

/// The card of a trained model; what is read must survive being written and read again.
inline void card(Bytes bytes) {
  const MemoryFile file(bytes);
  const auto read = bsconv::read_model_card(file.path());
  sound([&read] {
    const TemporaryFile copy;
    bsconv::write_model_card(copy.path(), read);
    const auto again = bsconv::read_model_card(copy.path());
    require(bsconv::detail::card_text(again) == bsconv::detail::card_text(read));
  });
}

/// The targets by name.
inline const std::map<std::string, std::function<void(Bytes)>>& targets() {
  static const std::map<std::string, std::function<void(Bytes)>> all = {
      {"safetensors", safetensors},
      {"pickle", pickle},
      {"zip", zip},
      {"pth", pth},
      {"cifar", cifar},
      {"matlab", matlab},
      {"image", image},
      {"onnx", onnx},
      {"checkpoint", checkpoint},
      {"card", card},
  };
  return all;
}

/// Runs the target `name` on a file; whether it was accepted.
inline bool accepts(const std::string& name, Bytes bytes) {
  try {
    targets().at(name)(bytes);
    return true;
  } catch (const c10::Error&) {
    return false;
  }
}

}  // namespace bsconv_fuzz
