// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/arg.h>
#include <torch/types.h>
#include <bsconv/weights/mapped_file.hpp>
#include <bsconv/weights/pickle_reader.hpp>
#include <bsconv/weights/state_dict.hpp>
#include <bsconv/weights/zip_reader.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>

namespace bsconv::weights {

/// Options of `load_pth`.
struct PthOptions {
  /// Where the tensors are: names of nested dictionaries joined by dots, such as
  /// "model_state_dict". Empty: the file's dictionary itself if it has only tensors, else the one
  /// of `model_state_dict`, `state_dict` and `model` that it has.
  TORCH_ARG(std::string, key);
};

namespace detail {

/// Reads what `torch.save` writes.
class PthReader {
 public:
  PthReader(std::shared_ptr<const MappedFile> file, std::string origin)
      : file_(std::move(file)), origin_(std::move(origin)) {
    if (ZipReader::recognizes(file_->text())) {
      read_zip();
    } else {
      read_legacy();
    }
  }

  StateDict tensors(const std::string& key) {
    const std::size_t dictionary = key.empty() ? find_dictionary() : follow(key);
    StateDict state;
    const auto& items = pickle_[dictionary].items;
    for (std::size_t i = 0; i + 1 < items.size(); i += 2) {
      const auto& name = pickle_[items[i]];
      TORCH_CHECK(name.kind == PickleKind::text, origin_, ": a tensor's name is not text");
      TORCH_CHECK(pickle_[items[i + 1]].kind == PickleKind::tensor, origin_, ": '", name.text,
                  "' is ", describe(items[i + 1]), ", not a tensor");
      TORCH_CHECK(!state.contains(name.text), origin_, ": '", name.text, "' occurs twice");
      state.insert(name.text, make_tensor(pickle_[items[i + 1]], name.text));
    }
    return state;
  }

 private:
  void read_zip() {
    const ZipReader zip(file_->text(), origin_);
    std::string prefix;
    std::size_t found = 0;
    for (const auto& [name, bytes] : zip.entries()) {
      if (name == "data.pkl" || (name.size() > 9 && name.find('/') == name.size() - 9 &&
                                 name.compare(name.size() - 9, 9, "/data.pkl") == 0)) {
        prefix = name.substr(0, name.size() - 8);
        ++found;
      }
    }
    TORCH_CHECK(found == 1, origin_,
                found == 0 ? ": it has no 'data.pkl'; was it written by torch.save?"
                           : ": it has several 'data.pkl'");
    TORCH_CHECK(
        zip.find(prefix + "constants.pkl") == nullptr, origin_,
        ": it is a TorchScript model, or a file of C++'s torch::save; in Python save the "
        "model's state_dict() with torch.save, in C++ torch::load the file into its module, "
        "then bsconv::weights::save_weights(path, bsconv::weights::state_dict(*module))");
    if (const auto* order = zip.find(prefix + "byteorder")) {
      TORCH_CHECK(*order == "little", origin_, ": its byte order is '", order->substr(0, 16),
                  "'; only little is supported");
    }
    pickle_ = PickleReader(*zip.find(prefix + "data.pkl"), origin_).read();
    for (const auto& value : pickle_.values) {
      if (value.kind != PickleKind::storage || storages_.count(value.text) != 0) {
        continue;
      }
      const auto* data = zip.find(prefix + "data/" + value.text);
      TORCH_CHECK(data != nullptr, origin_, ": the storage '", value.text, "' is missing");
      add_storage(value, *data);
    }
  }

  // Pickles of a magic number, the protocol, the writing machine, the values and the storages'
  // keys, then each storage's size and elements.
  void read_legacy() {
    std::string_view rest = file_->text();
    const auto next = [&] {
      auto pickle = PickleReader(rest, origin_).read();
      rest.remove_prefix(pickle.size);
      return pickle;
    };
    TORCH_CHECK(rest.size() > 2 && rest[0] == '\x80', origin_,
                ": it is neither a zip archive nor a pickle, as torch.save writes them");
    const auto magic = next();
    TORCH_CHECK(
        magic[magic.root].text == std::string_view("\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19", 10),
        origin_, ": a pickle, but not one that torch.save writes");
    const auto protocol = next();
    TORCH_CHECK(protocol[protocol.root].integer == 1001, origin_, ": torch.save protocol ",
                protocol[protocol.root].integer, " is not supported; 1001 is");
    const auto machine = next();
    check_machine(machine);
    pickle_ = next();
    const auto keys = next();
    std::unordered_map<std::string, std::size_t> known;
    for (std::size_t i = 0; i < pickle_.values.size(); ++i) {
      if (pickle_[i].kind == PickleKind::storage) {
        known.emplace(pickle_[i].text, i);
      }
    }
    for (const std::size_t item : keys[keys.root].items) {
      const auto found = known.find(keys[item].text);
      TORCH_CHECK(found != known.end(), origin_, ": the storage '", keys[item].text,
                  "' belongs to no tensor");
      const auto& storage = pickle_[found->second];
      int64_t elements = 0;
      TORCH_CHECK(rest.size() >= sizeof(elements), origin_, ": it ends before its storages");
      std::memcpy(&elements, rest.data(), sizeof(elements));
      rest.remove_prefix(sizeof(elements));
      TORCH_CHECK(elements == storage.integer, origin_, ": the storage '", storage.text, "' has ",
                  elements, " elements, but its tensors expect ", storage.integer);
      const uint64_t bytes = bytes_of(storage);
      TORCH_CHECK(bytes <= rest.size(), origin_, ": it ends within the storage '", storage.text,
                  "'");
      add_storage(storage, rest.substr(0, bytes));
      rest.remove_prefix(bytes);
    }
    TORCH_CHECK(rest.empty(), origin_, ": ", rest.size(), " bytes follow the last storage");
    for (const auto& [key, index] : known) {
      TORCH_CHECK(storages_.count(key) != 0, origin_, ": the storage '", key, "' is missing");
    }
  }

  void check_machine(const Pickle& machine) const {
    const auto& items = machine[machine.root].items;
    for (std::size_t i = 0; i + 1 < items.size(); i += 2) {
      TORCH_CHECK(machine[items[i]].text != "little_endian" || machine[items[i + 1]].integer == 1,
                  origin_, ": its byte order is big; only little is supported");
    }
  }

  uint64_t bytes_of(const PickleValue& storage) const {
    const uint64_t size = c10::elementSize(storage.dtype);
    TORCH_CHECK(static_cast<uint64_t>(storage.integer) <= file_->size() / size, origin_,
                ": the storage '", storage.text, "' of ", storage.integer, " ",
                c10::toString(storage.dtype), " is larger than the file");
    return static_cast<uint64_t>(storage.integer) * size;
  }

  void add_storage(const PickleValue& value, std::string_view data) {
    TORCH_CHECK(data.size() == bytes_of(value), origin_, ": the storage '", value.text, "' has ",
                data.size(), " bytes; ", value.integer, " ", c10::toString(value.dtype), " need ",
                bytes_of(value));
    auto tensor = view_of_file(file_, static_cast<uint64_t>(data.data() - file_->text().data()),
                               {value.integer}, value.dtype);
    if (value.dtype == torch::kBool) {
      TORCH_CHECK(
          std::all_of(data.begin(), data.end(), [](char byte) { return byte == 0 || byte == 1; }),
          origin_, ": the storage '", value.text, "' is bool but has other bytes than 0 and 1");
    }
    if (value.dtype == torch::kByte && tensor.numel() > 0 &&
        reinterpret_cast<std::uintptr_t>(tensor.const_data_ptr()) % sizeof(uint64_t) != 0) {
      tensor = tensor.clone();
    }
    storages_[value.text] = std::move(tensor);
  }

  torch::Tensor make_tensor(const PickleValue& value, const std::string& name) const {
    const auto& wanted = pickle_[value.items[0]];
    const auto& storage = storages_.at(wanted.text);
    TORCH_CHECK(storage.scalar_type() == wanted.dtype, origin_, ": '", name,
                "' reads a storage of ", c10::toString(storage.scalar_type()), " as ",
                c10::toString(wanted.dtype));
    const auto base = value.dtype == wanted.dtype ? storage : of_type(storage, value.dtype, name);
    // The last element's place, in steps that can't overflow.
    const auto elements = static_cast<uint64_t>(base.numel());
    TORCH_CHECK(value.integer >= 0 && static_cast<uint64_t>(value.integer) <= elements, origin_,
                ": '", name, "' starts outside of its storage of ", elements, " elements");
    uint64_t count = 1;
    uint64_t last = static_cast<uint64_t>(value.integer);
    bool empty = false;
    for (std::size_t d = 0; d < value.sizes.size(); ++d) {
      TORCH_CHECK(value.sizes[d] >= 0 && value.strides[d] >= 0, origin_, ": '", name,
                  "' has a negative size or stride");
      empty = empty || value.sizes[d] == 0;
    }
    TORCH_CHECK(empty || last < elements, origin_, ": '", name,
                "' starts outside of its storage of ", elements, " elements");
    for (std::size_t d = 0; d < value.sizes.size() && !empty; ++d) {
      const auto size = static_cast<uint64_t>(value.sizes[d]);
      const auto stride = static_cast<uint64_t>(value.strides[d]);
      const bool fits = stride == 0 || size - 1 <= (elements - std::min(last, elements)) / stride;
      TORCH_CHECK(fits && last + (size - 1) * stride < elements, origin_, ": '", name, "', shape ",
                  torch::IntArrayRef(value.sizes), " with strides ",
                  torch::IntArrayRef(value.strides), " from element ", value.integer,
                  ", reaches beyond its storage of ", elements, " elements");
      last += (size - 1) * stride;
      // Repeated elements may make a tensor larger than the file, within reason.
      count *= size;
      TORCH_CHECK(size <= max_elements() && count <= max_elements(), origin_, ": '", name,
                  "', shape ", torch::IntArrayRef(value.sizes),
                  ", repeats its elements to more than the file could hold");
    }
    if (empty) {
      uint64_t others = 1;
      for (const int64_t size : value.sizes) {
        const auto factor = static_cast<uint64_t>(std::max<int64_t>(size, 1));
        TORCH_CHECK(others <= (uint64_t{1} << 62) / factor, origin_, ": the size of '", name,
                    "' overflows");
        others *= factor;
      }
      return torch::empty(value.sizes, base.options());
    }
    auto tensor = base.as_strided(value.sizes, value.strides, value.integer);
    if (value.conjugated) {
      TORCH_CHECK(tensor.is_complex(), origin_, ": '", name, "' is conjugated, but not complex");
      tensor = tensor.conj();
    }
    return (value.negated ? tensor.neg() : tensor).resolve_conj();
  }

  // A storage of bytes, which lies where that suits all types, as elements of `type`.
  torch::Tensor of_type(const torch::Tensor& bytes, torch::ScalarType type,
                        const std::string& name) const {
    const auto size = static_cast<int64_t>(c10::elementSize(type));
    TORCH_CHECK(bytes.numel() % size == 0, origin_, ": '", name, "' of ", c10::toString(type),
                " lies in a storage of ", bytes.numel(), " bytes");
    return bytes.view(type);
  }

  uint64_t max_elements() const { return std::max<uint64_t>(1024, 16 * file_->size()); }

  bool holds_only_tensors(std::size_t dictionary) const {
    const auto& items = pickle_[dictionary].items;
    for (std::size_t i = 1; i < items.size(); i += 2) {
      if (pickle_[items[i]].kind != PickleKind::tensor) {
        return false;
      }
    }
    return !items.empty();
  }

  // The last value under `name`, as Python's dictionaries have it.
  std::optional<std::size_t> member(std::size_t dictionary, const std::string& name) const {
    std::optional<std::size_t> found;
    const auto& items = pickle_[dictionary].items;
    for (std::size_t i = 0; i + 1 < items.size(); i += 2) {
      if (pickle_[items[i]].kind == PickleKind::text && pickle_[items[i]].text == name) {
        found = items[i + 1];
      }
    }
    return found;
  }

  std::size_t find_dictionary() const {
    const std::size_t root = pickle_.root;
    TORCH_CHECK(pickle_[root].kind == PickleKind::dictionary, origin_, ": it holds ",
                describe(root), ", not a dictionary of tensors");
    if (pickle_[root].items.empty() || holds_only_tensors(root)) {
      return root;
    }
    for (const char* name : {"model_state_dict", "state_dict", "model"}) {
      const auto found = member(root, name);
      if (found && pickle_[*found].kind == PickleKind::dictionary && holds_only_tensors(*found)) {
        return *found;
      }
    }
    TORCH_CHECK(false, origin_,
                ": no dictionary of tensors was found; choose one with `key`. The file has ",
                contents(root));
  }

  std::size_t follow(const std::string& key) const {
    std::size_t at = pickle_.root;
    std::string rest = key;
    while (true) {
      TORCH_CHECK(pickle_[at].kind == PickleKind::dictionary, origin_, ": '", key, "' leads to ",
                  describe(at), ", not a dictionary");
      if (rest.empty()) {
        return at;
      }
      // Names may have dots themselves: the whole rest is tried first.
      auto found = member(at, rest);
      std::size_t taken = rest.size();
      for (std::size_t dot = rest.find('.'); !found && dot != std::string::npos;
           dot = rest.find('.', dot + 1)) {
        found = member(at, rest.substr(0, dot));
        taken = dot + 1;
      }
      TORCH_CHECK(found.has_value(), origin_, ": there is no '", rest, "'; the file has ",
                  contents(at));
      rest = taken >= rest.size() ? std::string() : rest.substr(taken);
      at = *found;
    }
  }

  std::string describe(std::size_t index) const {
    switch (pickle_[index].kind) {
      case PickleKind::dictionary:
        return "a dictionary of " + std::to_string(pickle_[index].items.size() / 2);
      case PickleKind::list:
      case PickleKind::tuple:
        return "a list of " + std::to_string(pickle_[index].items.size());
      case PickleKind::tensor:
        return "a tensor";
      case PickleKind::text:
      case PickleKind::bytes:
        return "text";
      case PickleKind::none:
        return "None";
      default:
        return "a number";
    }
  }

  std::string contents(std::size_t dictionary) const {
    std::string text;
    const auto& items = pickle_[dictionary].items;
    constexpr std::size_t most = 40;
    for (std::size_t i = 0; i + 1 < std::min(items.size(), most); i += 2) {
      text += text.empty() ? "" : ", ";
      text += "'" + pickle_[items[i]].text + "' (" + describe(items[i + 1]) + ")";
    }
    return text.empty() ? "nothing" : items.size() > most ? text + ", …" : text;
  }

  std::shared_ptr<const MappedFile> file_;
  std::string origin_;
  Pickle pickle_;
  std::unordered_map<std::string, torch::Tensor> storages_;
};

}  // namespace detail

/// Reads the tensors of a file that Python's `torch.save` wrote: a state dict, or a checkpoint with
/// one inside, in the zip format or the older one.
///
/// Executes nothing: the file may hold tensors, numbers, text and plain containers; anything else
/// is refused by name, such as TorchScript models and what C++'s `torch::save` writes. Tensors are
/// views of the mapped file, read when they are used, on the CPU; those that shared memory when
/// they were saved share it again. Every size and offset is checked first; throws `c10::Error` with
/// the path and what is wrong.
inline StateDict load_pth(const std::filesystem::path& path, const PthOptions& options = {}) {
  const std::string origin = "PyTorch file '" + path.native() + "'";
  return detail::PthReader(MappedFile::open(path, origin), origin).tensors(options.key());
}

}  // namespace bsconv::weights
