// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <unistd.h>

#include <array>
#include <bit>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include <c10/util/Exception.h>

#include <bsconv/train/metrics.hpp>
#include <bsconv/train/observer.hpp>

/// \file
/// Event files of TensorBoard: records of TFRecord, each a protocol buffer `Event`
/// (tensorflow/core/util/event.proto). Scalars need a dozen of its fields, written here by hand.

namespace bsconv::train {

namespace detail {

/// The CRC-32C (Castagnoli) of `bytes` as TFRecord masks it.
inline uint32_t masked_crc32c(std::string_view bytes) {
  static constexpr auto table = [] {
    std::array<uint32_t, 256> entries{};
    for (uint32_t i = 0; i < entries.size(); ++i) {
      uint32_t value = i;
      for (int bit = 0; bit < 8; ++bit) {
        value = (value >> 1U) ^ ((value & 1U) != 0 ? 0x82f63b78U : 0U);
      }
      entries[i] = value;
    }
    return entries;
  }();
  uint32_t crc = 0xffffffffU;
  for (const char byte : bytes) {
    crc = table[(crc ^ static_cast<uint8_t>(byte)) & 0xffU] ^ (crc >> 8U);
  }
  crc = ~crc;
  return ((crc >> 15U) | (crc << 17U)) + 0xa282ead8U;
}

/// A protocol buffer message that grows field by field.
class ProtoMessage {
 public:
  /// A varint field.
  ProtoMessage& varint(uint32_t field, uint64_t value) {
    put_varint(field << 3U);
    put_varint(value);
    return *this;
  }
  /// A double field.
  ProtoMessage& real(uint32_t field, double value) {
    put_varint(field << 3U | 1U);
    put_fixed(std::bit_cast<uint64_t>(value));
    return *this;
  }
  /// A float field.
  ProtoMessage& real(uint32_t field, float value) {
    put_varint(field << 3U | 5U);
    put_fixed(std::bit_cast<uint32_t>(value));
    return *this;
  }
  /// A text or a message in a field.
  ProtoMessage& bytes(uint32_t field, std::string_view value) {
    put_varint(field << 3U | 2U);
    put_varint(value.size());
    bytes_ += value;
    return *this;
  }
  /// The message as it is written.
  const std::string& data() const noexcept { return bytes_; }

  /// The bytes of a number, the lowest first.
  template <class Number>
  static std::string fixed(Number value) {
    std::string bytes;
    for (std::size_t i = 0; i < sizeof value; ++i) {
      bytes.push_back(static_cast<char>(value >> (8U * i) & 0xffU));
    }
    return bytes;
  }

 private:
  template <class Number>
  void put_fixed(Number value) {
    bytes_ += fixed(value);
  }

  void put_varint(uint64_t value) {
    for (; value >= 0x80U; value >>= 7U) {
      bytes_.push_back(static_cast<char>((value & 0x7fU) | 0x80U));
    }
    bytes_.push_back(static_cast<char>(value));
  }

  std::string bytes_;
};

}  // namespace detail

/// Appends scalars to a new event file in a folder, for TensorBoard.
class EventWriter {
 public:
  /// Makes a file in `folder`, which must exist; its name starts with `events.out.tfevents`.
  /// TensorBoard then forgets what older files of the folder say about steps from `first_step` on.
  /// Throws `c10::Error` if it can't be written.
  explicit EventWriter(const std::filesystem::path& folder, int64_t first_step = 0) {
    char host[256] = "localhost";
    (void)::gethostname(host, sizeof host - 1);
    const auto now = std::chrono::system_clock::now().time_since_epoch();
    const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(now).count();
    // Two files of a process made in the same second differ by the last number.
    for (int number = 0;; ++number) {
      path_ = folder / ("events.out.tfevents." + std::to_string(seconds) + "." + host + "." +
                        std::to_string(::getpid()) + "." + std::to_string(number));
      std::error_code error;
      if (!std::filesystem::exists(path_, error)) {
        break;
      }
    }
    file_.open(path_, std::ios::binary);
    write(event(0).bytes(3, "brain.Event:2"));
    constexpr uint64_t session_start = 1;
    write(event(first_step).bytes(7, detail::ProtoMessage().varint(1, session_start).data()));
    flush();
  }

  /// Adds a value called `tag` at `step`; a NaN is left out.
  void scalar(std::string_view tag, double value, int64_t step) {
    if (std::isnan(value)) {
      return;
    }
    const auto entry = detail::ProtoMessage().bytes(1, tag).real(2, static_cast<float>(value));
    write(event(step).bytes(5, detail::ProtoMessage().bytes(1, entry.data()).data()));
  }

  /// Hands everything to the system. Throws `c10::Error` if that fails.
  void flush() { TORCH_CHECK(file_.flush(), "cannot write '", path_.native(), "'"); }

  /// The file's path.
  const std::filesystem::path& path() const noexcept { return path_; }

 private:
  static detail::ProtoMessage event(int64_t step) {
    const std::chrono::duration<double> now = std::chrono::system_clock::now().time_since_epoch();
    detail::ProtoMessage message;
    message.real(1, now.count()).varint(2, static_cast<uint64_t>(step));
    return message;
  }

  void write(const detail::ProtoMessage& message) {
    const auto length = detail::ProtoMessage::fixed(static_cast<uint64_t>(message.data().size()));
    file_ << length << detail::ProtoMessage::fixed(detail::masked_crc32c(length)) << message.data()
          << detail::ProtoMessage::fixed(detail::masked_crc32c(message.data()));
  }

  std::filesystem::path path_;
  std::ofstream file_;
};

/// Writes the metrics of every epoch for TensorBoard; the step is the epoch, counted from 1.
class TensorBoard : public Observer {
 public:
  /// Writes to a new event file in `folder`, which must exist; `epochs` are those finished before.
  explicit TensorBoard(const std::filesystem::path& folder, int64_t epochs = 0)
      : events_(folder, epochs + 1) {}

  void on_epoch_end(const EpochSummary& summary) override {
    for (const auto& [split, metrics] :
         {std::pair{std::string("train"), summary.train}, {std::string("test"), summary.test}}) {
      events_.scalar("loss/" + split, metrics.loss, summary.epoch);
      events_.scalar("cross_entropy/" + split, metrics.cross_entropy, summary.epoch);
      events_.scalar("regularization/" + split, metrics.regularization, summary.epoch);
      events_.scalar("distillation/" + split, metrics.distillation, summary.epoch);
      events_.scalar("top1/" + split, metrics.accuracy, summary.epoch);
      events_.scalar("top5/" + split, metrics.accuracy_top5, summary.epoch);
    }
    events_.scalar("best_top1", summary.best_accuracy, summary.epoch);
    events_.scalar("learning_rate", summary.learning_rate, summary.epoch);
    events_.scalar("images_per_second", summary.images_per_second, summary.epoch);
    events_.flush();
  }

 private:
  EventWriter events_;
};

}  // namespace bsconv::train
