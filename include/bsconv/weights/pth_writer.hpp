// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <caffe2/serialize/inline_container.h>
#include <torch/types.h>
#include <bsconv/util/json_value.hpp>
#include <bsconv/weights/atomic_file.hpp>
#include <bsconv/weights/pickle.hpp>
#include <bsconv/weights/state_dict.hpp>

#include <cstddef>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace bsconv::weights {

namespace detail {

/// Writes the pickle of a state dict, protocol 2.
class StateDictPickler {
 public:
  /// The pickle of `state`, whose tensors are on the CPU.
  std::string write(const StateDict& state) {
    text_ = "\x80\x02";
    global("collections", "OrderedDict");
    text_ += ")R(";
    for (const auto& item : state) {
      text(item.key());
      tensor(item.value(), item.key());
    }
    text_ += "u.";
    return std::move(text_);
  }

  /// The storages in the order of their keys "0", "1", …
  const std::vector<torch::Tensor>& storages() const { return storages_; }

 private:
  void global(std::string_view module, std::string_view name) {
    text_ += 'c';
    text_ += module;
    text_ += '\n';
    text_ += name;
    text_ += '\n';
  }

  template <class Number>
  void raw(Number number) {
    text_.append(reinterpret_cast<const char*>(&number), sizeof(number));
  }

  void text(const std::string& value) {
    text_ += 'X';
    raw(static_cast<uint32_t>(value.size()));
    text_ += value;
  }

  void integer(int64_t value) {
    if (value >= 0 && value < 256) {
      text_ += 'K';
      raw(static_cast<uint8_t>(value));
    } else {
      text_ += "\x8a\x08";
      raw(value);
    }
  }

  void tuple(torch::IntArrayRef values) {
    text_ += '(';
    for (const int64_t value : values) {
      integer(value);
    }
    text_ += 't';
  }

  void tensor(const torch::Tensor& value, const std::string& name) {
    const auto& storage = value.storage();
    // A storage in a file is of one type: memory that is seen as two is written twice.
    const auto known = keys_.try_emplace(
        std::pair(storage.unsafeGetStorageImpl(), value.scalar_type()), storages_.size());
    const auto* dtype = find_pickle_dtype(&PickleDtype::dtype, value.scalar_type());
    TORCH_CHECK(dtype != nullptr, "a .pth file can't hold '", name, "' of ", value.scalar_type());
    const bool untyped = dtype->storage == untyped_storage;
    const auto element_size = untyped ? 1 : static_cast<std::size_t>(value.element_size());
    const auto elements = static_cast<int64_t>(storage.nbytes() / element_size);
    if (known.second) {
      storages_.push_back(value);
    }
    global("torch._utils", untyped ? "_rebuild_tensor_v3" : "_rebuild_tensor_v2");
    text_ += "((";
    text("storage");
    global(untyped ? "torch.storage" : "torch", dtype->storage);
    text(std::to_string(known.first->second));
    text("cpu");
    integer(elements);
    text_ += "tQ";
    integer(value.storage_offset());
    tuple(value.sizes());
    tuple(value.strides());
    text_ += "\x89";
    global("collections", "OrderedDict");
    text_ += ")R";
    if (untyped) {
      global("torch", dtype->name);
    }
    text_ += "tR";
  }

  std::string text_;
  std::vector<torch::Tensor> storages_;
  std::map<std::pair<const c10::StorageImpl*, torch::ScalarType>, std::size_t> keys_;
};

}  // namespace detail

/// Writes `state` to `path` as Python's `torch.save` writes a state dict, so that `torch.load`
/// reads it under its default `weights_only=True`; complete or not at all (`AtomicFile`).
///
/// Tensors on other devices are copied to the CPU; tensors that share memory share it in the file,
/// but only what they show of it is written if they show a part. Throws `c10::Error` for an
/// undefined tensor, for a dtype that the format lacks, for a name that is not UTF-8, and for what
/// the file system refuses.
inline void save_pth(const std::filesystem::path& path, const StateDict& state) {
  StateDict on_cpu;
  for (const auto& item : state) {
    TORCH_CHECK(item.value().defined(), "tensor '", item.key(), "' is undefined");
    TORCH_CHECK(bsconv::detail::is_utf8(nlohmann::json(item.key())), "cannot write '",
                path.native(), "': a name is not UTF-8");
    auto value = item.value().detach().to(torch::kCPU).resolve_conj().resolve_neg();
    const auto bytes = static_cast<std::size_t>(value.numel() * value.element_size());
    // Views of something larger don't take it along.
    if (!value.is_contiguous() || value.storage().nbytes() != bytes) {
      value = value.contiguous().clone();
    }
    on_cpu.insert(item.key(), std::move(value));
  }
  detail::StateDictPickler pickler;
  const std::string pickle = pickler.write(on_cpu);
  AtomicFile file(path);
  std::exception_ptr failure;
  {
    // An exception would pass through C code, and the writer's destructor writes once more.
    const auto write = [&file, &failure](const void* bytes, std::size_t size) noexcept {
      try {
        if (failure == nullptr) {
          file.write(bytes, size);
        }
      } catch (...) {
        failure = std::current_exception();
      }
      return size;
    };
    caffe2::serialize::PyTorchStreamWriter archive(write);
    archive.writeRecord("data.pkl", pickle.data(), pickle.size());
    archive.writeRecord("byteorder", "little", 6);
    for (std::size_t i = 0; i < pickler.storages().size(); ++i) {
      const auto& storage = pickler.storages()[i].storage();
      archive.writeRecord("data/" + std::to_string(i), storage.data(), storage.nbytes());
    }
    archive.writeEndOfFile();
  }
  if (failure != nullptr) {
    std::rethrow_exception(failure);
  }
  file.commit();
}

}  // namespace bsconv::weights
