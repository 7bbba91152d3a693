// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <bsconv/weights/pickle.hpp>
#include <bsconv/weights/pickle_machine.hpp>

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace bsconv::weights::detail {

/// Reads one pickle of plain values and tensors, as PyTorch's `torch.save` writes them with
/// protocols 2 to 4. Nothing is executed: a global that is not among the few known ones, or an
/// opcode that plain values don't need, ends in `c10::Error` that starts with `origin` and names
/// it. Time and memory are in proportion to the pickle's size, see `PickleMachine`.
class PickleReader : PickleMachine {
 public:
  PickleReader(std::string_view bytes, std::string origin)
      : PickleMachine(bytes, std::move(origin)) {}

  Pickle read() {
    while (!step()) {
    }
    return take_result();
  }

 private:
  static const PickleDtype* dtype_by_name(std::string_view name) {
    return find_pickle_dtype(&PickleDtype::name, name);
  }

  void push_global(const std::string& module, const std::string& name) {
    const std::string full = module + "." + name;
    const bool storage = (module == "torch" || module == "torch.storage") && storage_dtype(name);
    static const std::array<std::string_view, 8> known = {"collections.OrderedDict",
                                                          "torch._utils._rebuild_tensor_v2",
                                                          "torch._utils._rebuild_tensor_v3",
                                                          "torch._utils._rebuild_parameter",
                                                          "torch.Size",
                                                          "torch.device",
                                                          "torch._utils._rebuild_tensor",
                                                          "_codecs.encode"};
    bool allowed = storage;
    for (const auto& entry : known) {
      allowed = allowed || entry == full;
    }
    // A dtype stands as its name.
    allowed = allowed || (module == "torch" && dtype_by_name(name) != nullptr);
    check(allowed, "the global '" + full +
                       "' is not allowed; only tensors and plain containers can be loaded");
    push_text(PickleKind::global, full);
  }

  int64_t integer_of(std::size_t index) const {
    check(value(index).kind == PickleKind::integer, "an integer is expected");
    return value(index).integer;
  }

  std::vector<int64_t> integers_of(std::size_t index) const {
    check(value(index).kind == PickleKind::tuple || value(index).kind == PickleKind::list,
          "a tuple of integers is expected");
    check(value(index).items.size() <= 64, "a tensor has more than 64 dimensions");
    std::vector<int64_t> integers;
    integers.reserve(value(index).items.size());
    for (const std::size_t item : value(index).items) {
      integers.push_back(integer_of(item));
    }
    return integers;
  }

  void reduce() {
    const std::size_t arguments = pop();
    const std::size_t function = pop();
    check(value(function).kind == PickleKind::global, "something else than a global is called");
    check(value(arguments).kind == PickleKind::tuple, "a call has no tuple of arguments");
    // More would only be there to take time.
    check(value(arguments).items.size() <= 16, "a call has too many arguments");
    const auto items = value(arguments).items;
    const std::string name = value(function).text;
    if (name == "collections.OrderedDict") {
      make_dictionary(items);
    } else if (name == "torch._utils._rebuild_tensor_v2" ||
               name == "torch._utils._rebuild_tensor") {
      make_tensor(items);
    } else if (name == "torch._utils._rebuild_tensor_v3") {
      make_untyped_tensor(items);
    } else if (name == "torch._utils._rebuild_parameter") {
      check(!items.empty() && value(items[0]).kind == PickleKind::tensor,
            "a parameter has no tensor");
      push(items[0]);
    } else if (name == "torch.Size") {
      check(items.size() == 1, "torch.Size takes one argument");
      push(items[0]);
    } else if (name == "_codecs.encode") {
      // How protocol 2 writes bytes: as text of which each character is a byte.
      check(items.size() == 2 && value(items[0]).kind == PickleKind::text, "bytes have no text");
      push(items[0]);
    } else if (name == "torch.device") {
      check(!items.empty() && value(items[0]).kind == PickleKind::text, "a device has no name");
      push(items[0]);
    } else {
      refuse("'" + name + "' is called");
    }
  }

  void make_dictionary(const std::vector<std::size_t>& arguments) {
    check(arguments.size() <= 1, "OrderedDict takes one argument");
    const std::size_t made = add(PickleKind::dictionary);
    if (!arguments.empty()) {
      const auto pairs = value(arguments[0]).items;
      for (const std::size_t pair : pairs) {
        const auto& items = value(pair).items;
        check(items.size() == 2 && value(pair).kind != PickleKind::dictionary,
              "OrderedDict takes pairs");
        const std::vector<std::size_t> copy = items;
        append(made, PickleKind::dictionary, copy);
      }
    }
    push(made);
  }

  // (storage, offset, sizes, strides, requires_grad, hooks, dtype[, metadata])
  void make_untyped_tensor(std::vector<std::size_t> arguments) {
    check(arguments.size() >= 7 && value(arguments[6]).kind == PickleKind::global &&
              value(arguments[0]).dtype == torch::kByte,
          "a tensor over bytes has no dtype");
    const std::string name = value(arguments[6]).text;
    arguments.erase(arguments.begin() + 6);
    make_tensor(arguments);
    const auto* dtype = dtype_by_name(std::string_view(name).substr(name.find('.') + 1));
    check(dtype != nullptr && dtype->storage == untyped_storage,
          "a tensor over bytes is of '" + name + "'");
    value(top()).dtype = dtype->dtype;
  }

  void make_tensor(const std::vector<std::size_t>& arguments) {
    check(arguments.size() >= 4 && value(arguments[0]).kind == PickleKind::storage,
          "a tensor has no storage");
    PickleValue tensor;
    tensor.kind = PickleKind::tensor;
    tensor.integer = integer_of(arguments[1]);
    tensor.sizes = integers_of(arguments[2]);
    tensor.strides = integers_of(arguments[3]);
    tensor.dtype = value(arguments[0]).dtype;
    tensor.items = {arguments[0]};
    check(tensor.sizes.size() == tensor.strides.size(),
          "a tensor has " + std::to_string(tensor.sizes.size()) + " sizes, but " +
              std::to_string(tensor.strides.size()) + " strides");
    charge(2 * tensor.sizes.size());
    // requires_grad, hooks, and what else there is to know about it.
    if (arguments.size() > 6) {
      read_flags(value(arguments[6]), tensor);
    }
    push(add(std::move(tensor)));
  }

  void read_flags(const PickleValue& flags, PickleValue& tensor) const {
    check(flags.kind == PickleKind::dictionary || flags.kind == PickleKind::none,
          "a tensor's metadata is no dictionary");
    for (std::size_t i = 0; i + 1 < flags.items.size(); i += 2) {
      const auto& key = value(flags.items[i]);
      const auto& flag = value(flags.items[i + 1]);
      const bool known = key.kind == PickleKind::text && (key.text == "conj" || key.text == "neg");
      check(known && flag.kind == PickleKind::boolean,
            "a tensor's metadata '" + key.text + "' is not supported");
      (key.text == "conj" ? tensor.conjugated : tensor.negated) = flag.integer != 0;
    }
  }

  // ('storage', type, key, location, elements[, view])
  void make_storage() {
    const std::size_t id = pop();
    const auto& items = value(id).items;
    check(value(id).kind == PickleKind::tuple && items.size() >= 5 && items.size() <= 6 &&
              value(items[0]).text == "storage",
          "an unknown persistent value");
    check(value(items[1]).kind == PickleKind::global, "a storage has no type");
    const std::string type = value(items[1]).text;
    const auto dtype = storage_dtype(type.substr(type.rfind('.') + 1));
    check(dtype.has_value(), "'" + type + "' is not a storage");
    check(value(items[2]).kind == PickleKind::text, "a storage has no key");
    check(value(items[2]).text.size() <= 255, "a storage's key is longer than 255 bytes");
    check(items.size() < 6 || value(items[5]).kind == PickleKind::none,
          "views of storages are not supported");
    PickleValue storage;
    storage.kind = PickleKind::storage;
    storage.text = value(items[2]).text;
    storage.dtype = *dtype;
    storage.integer = integer_of(items[4]);
    check(storage.integer >= 0, "a storage has a negative size");
    push(add(std::move(storage)));
  }

  // One opcode; true for the last.
  bool step() {
    const auto opcode = next_opcode();
    switch (opcode) {
      case 0x80: {  // PROTO
        const auto protocol = number<uint8_t>();
        check(protocol >= 2 && protocol <= 5,
              "protocol " + std::to_string(protocol) + " is not supported");
        break;
      }
      case 0x95:  // FRAME
        number<uint64_t>();
        break;
      case '.':  // STOP
        return true;
      case 'N':
        push(PickleKind::none);
        break;
      case 0x88:
      case 0x89:
        push(PickleKind::boolean).integer = opcode == 0x88 ? 1 : 0;
        break;
      case 'K':
        push_integer(number<uint8_t>());
        break;
      case 'M':
        push_integer(number<uint16_t>());
        break;
      case 'J':
        push_integer(number<int32_t>());
        break;
      case 0x8A:  // LONG1
        push_long(number<uint8_t>());
        break;
      case 'G': {  // BINFLOAT is big-endian.
        auto bits = number<uint64_t>();
        uint64_t swapped = 0;
        for (int i = 0; i < 8; ++i) {
          swapped = (swapped << 8) | (bits & 0xFF);
          bits >>= 8;
        }
        push(PickleKind::number).number = std::bit_cast<double>(swapped);
        break;
      }
      case 'X':
        push_text(PickleKind::text, take(number<uint32_t>()));
        break;
      case 0x8C:
      case 'U':
        push_text(PickleKind::text, take(number<uint8_t>()));
        break;
      case 0x8D:
        push_text(PickleKind::text, take(number<uint64_t>()));
        break;
      case 'B':
        push_text(PickleKind::bytes, take(number<uint32_t>()));
        break;
      case 'C':
        push_text(PickleKind::bytes, take(number<uint8_t>()));
        break;
      default:
        step_container(opcode);
        break;
    }
    return false;
  }

  void step_container(unsigned char opcode) {
    switch (opcode) {
      case '(':
        push(PickleKind::mark);
        break;
      case '}':
        push(PickleKind::dictionary);
        break;
      case ']':
        push(PickleKind::list);
        break;
      case ')':
        push(PickleKind::tuple);
        break;
      case 't': {
        auto items = pop_to_mark();
        push(PickleKind::tuple).items = std::move(items);
        break;
      }
      case 0x85:
      case 0x86:
      case 0x87:
        push_tuple(opcode - 0x84U);
        break;
      case 's': {
        const auto item = pop();
        const auto key = pop();
        append(top(), PickleKind::dictionary, {key, item});
        break;
      }
      case 'u': {
        const auto items = pop_to_mark();
        append(top(), PickleKind::dictionary, items);
        break;
      }
      case 'a': {
        const auto item = pop();
        append(top(), PickleKind::list, {item});
        break;
      }
      case 'e': {
        const auto items = pop_to_mark();
        append(top(), PickleKind::list, items);
        break;
      }
      case 'q':
        memoize(number<uint8_t>());
        break;
      case 'r':
        memoize(number<uint32_t>());
        break;
      case 0x94:  // MEMOIZE
        memoize();
        break;
      case 'h':
        recall(number<uint8_t>());
        break;
      case 'j':
        recall(number<uint32_t>());
        break;
      case 'c': {
        const auto module = line();
        push_global(module, line());
        break;
      }
      case 0x93: {  // STACK_GLOBAL
        const auto name = pop();
        const auto module = pop();
        const std::string module_text = value(module).text;
        const std::string name_text = value(name).text;
        push_global(module_text, name_text);
        break;
      }
      case 'R':
        reduce();
        break;
      case 'Q':
        make_storage();
        break;
      case 'b':  // BUILD: attributes of a dictionary, such as a state dict's versions.
        pop();
        check(value(top()).kind == PickleKind::dictionary,
              "attributes of something else than a dictionary are set");
        break;
      default: {
        static constexpr char digits[] = "0123456789abcdef";
        refuse(std::string("opcode 0x") + digits[opcode >> 4] + digits[opcode & 15] +
               " is not allowed");
      }
    }
  }
};

}  // namespace bsconv::weights::detail
