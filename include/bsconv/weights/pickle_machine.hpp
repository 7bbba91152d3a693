// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <c10/util/Exception.h>
#include <bsconv/weights/pickle.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace bsconv::weights::detail {

/// The machine that a pickle is a program for: its bytes, the stack and the memo. Takes at most 512
/// times the pickle's size in memory. What goes wrong ends in `c10::Error` that starts with
/// `origin`.
class PickleMachine {
 protected:
  PickleMachine(std::string_view bytes, std::string origin)
      : bytes_(bytes), origin_(std::move(origin)) {}

  [[noreturn]] void refuse(const std::string& why) const {
    TORCH_CHECK(false, origin_, ": refused at byte ", opcode_at_, " of its pickle: ", why);
  }

  void check(bool valid, const std::string& why) const {
    if (!valid) {
      refuse(why);
    }
  }

  // The next byte of the program, an opcode.
  unsigned char next_opcode() {
    opcode_at_ = at_;
    return number<unsigned char>();
  }

  // What the program leaves, as soon as it has ended.
  Pickle take_result() {
    check(stack_.size() == 1, "it leaves " + std::to_string(stack_.size()) + " values");
    pickle_.root = stack_.back();
    pickle_.size = at_;
    return std::move(pickle_);
  }

  std::string_view take(uint64_t count) {
    check(count <= bytes_.size() - at_, "it ends within a value");
    const auto taken = bytes_.substr(at_, count);
    at_ += count;
    return taken;
  }

  template <class Number>
  Number number() {
    Number value;
    std::memcpy(&value, take(sizeof(Number)).data(), sizeof(Number));
    return value;
  }

  std::string line() {
    const auto end = bytes_.find('\n', at_);
    check(end != std::string_view::npos, "it ends within a name");
    auto text = std::string(take(end - at_));
    ++at_;
    return text;
  }

  std::size_t add(PickleValue value) {
    pickle_.values.push_back(std::move(value));
    return pickle_.values.size() - 1;
  }

  std::size_t add(PickleKind kind) {
    PickleValue value;
    value.kind = kind;
    return add(std::move(value));
  }

  void push(std::size_t value) { stack_.push_back(value); }

  PickleValue& push(PickleKind kind) {
    push(add(kind));
    return pickle_.values.back();
  }

  std::size_t pop() {
    check(!stack_.empty(), "its stack is empty");
    const auto top = stack_.back();
    stack_.pop_back();
    check(value(top).kind != PickleKind::mark, "a mark stands where a value is needed");
    return top;
  }

  std::size_t top() const {
    check(!stack_.empty() && value(stack_.back()).kind != PickleKind::mark, "its stack is empty");
    return stack_.back();
  }

  const PickleValue& value(std::size_t index) const { return pickle_.values[index]; }
  PickleValue& value(std::size_t index) { return pickle_.values[index]; }

  // The values above the last mark, which goes.
  std::vector<std::size_t> pop_to_mark() {
    std::size_t begin = stack_.size();
    while (begin > 0 && value(stack_[begin - 1]).kind != PickleKind::mark) {
      --begin;
    }
    check(begin > 0, "a mark is missing");
    std::vector<std::size_t> items(stack_.begin() + static_cast<std::ptrdiff_t>(begin),
                                   stack_.end());
    stack_.resize(begin - 1);
    return items;
  }

  void push_tuple(std::size_t count) {
    std::vector<std::size_t> items(count);
    for (std::size_t i = count; i > 0; --i) {
      items[i - 1] = pop();
    }
    push(PickleKind::tuple).items = std::move(items);
  }

  void append(std::size_t container, PickleKind kind, const std::vector<std::size_t>& items) {
    check(value(container).kind == kind, "values are added to something else than a container");
    check(kind != PickleKind::dictionary || items.size() % 2 == 0, "a key has no value");
    charge(items.size());
    auto& to = value(container).items;
    to.insert(to.end(), items.begin(), items.end());
  }

  // A value that is referred to again and again could make a few bytes grow without end.
  void charge(std::size_t items) {
    items_ += items;
    check(items_ <= 4 * bytes_.size(), "its containers hold more values than it can define");
  }

  void push_text(PickleKind kind, std::string_view text) { push(kind).text = std::string(text); }

  void push_integer(int64_t integer) { push(PickleKind::integer).integer = integer; }

  // A little-endian integer of `count` bytes. Longer ones than 64 bits stay bytes: PyTorch's magic
  // number is one.
  void push_long(uint64_t count) {
    const auto digits = take(count);
    if (count > 8) {
      push_text(PickleKind::bytes, digits);
      return;
    }
    uint64_t bits = count > 0 && (static_cast<unsigned char>(digits.back()) & 0x80U) != 0
                        ? ~uint64_t{0}
                        : uint64_t{0};
    for (std::size_t i = count; i > 0; --i) {
      bits = (bits << 8) | static_cast<unsigned char>(digits[i - 1]);
    }
    push_integer(static_cast<int64_t>(bits));
  }

  void memoize(uint64_t key) { memo_[key] = top(); }

  // Under the next key.
  void memoize() { memoize(memo_.size()); }

  void recall(uint64_t key) {
    const auto found = memo_.find(key);
    check(found != memo_.end(), "value " + std::to_string(key) + " is not in its memo");
    push(found->second);
  }

 private:
  std::string_view bytes_;
  std::string origin_;
  std::size_t at_ = 0;
  std::size_t opcode_at_ = 0;
  Pickle pickle_;
  std::vector<std::size_t> stack_;
  std::unordered_map<uint64_t, std::size_t> memo_;
  std::size_t items_ = 0;
};

}  // namespace bsconv::weights::detail
