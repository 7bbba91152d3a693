// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <c10/util/Exception.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <torch/types.h>
#include <unistd.h>
#include <bsconv/util/regular_file.hpp>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

namespace bsconv::weights {

/// A file's bytes in memory, of which only those are read that are looked at.
///
/// What is written to the memory stays in this process and never reaches the file. The file must
/// not be shortened by others meanwhile.
class MappedFile {
 public:
  /// Maps the file at `path`. Throws `c10::Error` that starts with `origin`, such as "safetensors
  /// file 'a'", if it is no regular file or can't be opened.
  static std::shared_ptr<const MappedFile> open(const std::filesystem::path& path,
                                                const std::string& origin) {
    bsconv::detail::check_regular_file(path, origin);
    const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    TORCH_CHECK(descriptor >= 0, origin, " cannot be opened: ", reason());
    struct stat status {};
    if (::fstat(descriptor, &status) != 0) {
      const auto why = reason();
      ::close(descriptor);
      TORCH_CHECK(false, origin, " cannot be read: ", why);
    }
    const auto size = static_cast<std::size_t>(status.st_size);
    void* bytes = nullptr;
    if (size > 0) {
      bytes =
          ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, descriptor, 0);
    }
    const auto why = reason();
    ::close(descriptor);
    TORCH_CHECK(bytes != MAP_FAILED, origin, " cannot be mapped: ", why);
    return std::shared_ptr<const MappedFile>(
        new MappedFile(static_cast<unsigned char*>(bytes), size));
  }

  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile() {
    if (bytes_ != nullptr) {
      ::munmap(bytes_, size_);
    }
  }

  /// The first byte; null for an empty file.
  unsigned char* data() const { return bytes_; }
  /// How many there are.
  std::size_t size() const { return size_; }
  /// All bytes as text.
  std::string_view text() const { return {reinterpret_cast<const char*>(bytes_), size_}; }

 private:
  MappedFile(unsigned char* bytes, std::size_t size) : bytes_(bytes), size_(size) {}

  static std::string reason() { return std::generic_category().message(errno); }

  unsigned char* bytes_;
  std::size_t size_;
};

/// A tensor of `shape` and `type` at byte `offset` of `file`, which has enough of them. It is a
/// view of the file, which stays mapped as long as the tensor lives, or a copy where the offset
/// does not suit the type.
inline torch::Tensor view_of_file(const std::shared_ptr<const MappedFile>& file,
                                  std::uint64_t offset, torch::IntArrayRef shape,
                                  torch::ScalarType type) {
  const auto options = torch::TensorOptions(type);
  const auto count = c10::multiply_integers(shape);
  if (count == 0) {
    return torch::empty(shape, options);
  }
  unsigned char* bytes = file->data() + offset;
  if (reinterpret_cast<std::uintptr_t>(bytes) % c10::elementSize(type) == 0) {
    return torch::from_blob(
        bytes, shape, [file](void*) {}, options);
  }
  auto tensor = torch::empty(shape, options);
  std::memcpy(tensor.data_ptr(), bytes, tensor.nbytes());
  return tensor;
}

}  // namespace bsconv::weights
