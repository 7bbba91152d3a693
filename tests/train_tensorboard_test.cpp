// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <bsconv/train/tensorboard.hpp>

#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "support/python.hpp"
#include "test_files.hpp"

// Tests are compiled several files at a time.
namespace train_tensorboard_test {
namespace {

using bsconv::train::EventWriter;
using bsconv_test::TemporaryDirectory;

TEST(TrainTensorBoard, ChecksumsAreTheStandards) {
  // CRC-32C of "123456789" is 0xe3069283; TFRecord rotates it right by 15 and adds a constant.
  constexpr uint32_t crc = 0xe3069283U;
  constexpr uint32_t masked = ((crc >> 15U) | (crc << 17U)) + 0xa282ead8U;
  EXPECT_EQ(bsconv::train::detail::masked_crc32c("123456789"), masked);
}

TEST(TrainTensorBoard, MessagesAreProtocolBuffers) {
  using bsconv::train::detail::ProtoMessage;
  EXPECT_EQ(ProtoMessage().varint(2, 300).data(), "\x10\xac\x02");
  EXPECT_EQ(ProtoMessage().bytes(1, "abc").data(),
            "\x0a\x03"
            "abc");
  EXPECT_EQ(ProtoMessage().real(2, 1.0F).data(), std::string("\x15\0\0\x80\x3f", 5));
  EXPECT_EQ(ProtoMessage().real(1, 1.0).data(), std::string("\x09\0\0\0\0\0\0\xf0\x3f", 9));
}

TEST(TrainTensorBoard, SaysThatItCannotWrite) {
  EXPECT_THAT(bsconv_test::error_of([] { EventWriter("/no/such/folder"); }),
              testing::HasSubstr("cannot write '/no/such/folder/events.out.tfevents."));
}

TEST(TrainTensorBoard, TensorBoardReadsTheEpochsOfAResumedRun) {
  const std::string python = bsconv_test::python();
  if (python.empty() ||
      std::system(("'" + python + "' -c 'import tensorboard' 2>/dev/null").c_str()) != 0) {
    GTEST_SKIP() << "BSCONV_TEST_PYTHON names no Python that has tensorboard";
  }
  const TemporaryDirectory directory;
  const auto row = [](int64_t epoch, double accuracy) {
    bsconv::train::EpochSummary summary;
    summary.epoch = epoch;
    summary.learning_rate = 0.5;
    summary.train.loss = 0.25 * static_cast<double>(epoch);
    summary.test = epoch == 2 ? bsconv::train::Metrics::none()
                              : bsconv::train::Metrics{1, 2, 3, accuracy, 0.75};
    return summary;
  };
  {
    bsconv::train::TensorBoard first(directory.path());
    for (int64_t epoch = 1; epoch <= 4; ++epoch) {
      first.on_epoch_end(row(epoch, 0.5));
    }
  }
  // Goes on after the third epoch: the fourth one is trained again.
  bsconv::train::TensorBoard second(directory.path(), 3);
  second.on_epoch_end(row(4, 0.625));
  EXPECT_EQ(bsconv_test::count_files(directory.path()), 2);

  const auto out = directory / "scalars.json";
  const std::string command = "'" + python +
                              "' '" BSCONV_TEST_DATA_DIR "/../python/read_events.py' '" +
                              directory.path().native() + "' '" + out.native() + "' 2>/dev/null";
  ASSERT_EQ(std::system(command.c_str()), 0);
  const auto scalars = nlohmann::json::parse(bsconv_test::read_file(out));
  using Values = std::vector<std::pair<int64_t, double>>;
  const auto values = [&scalars](const char* tag) { return scalars.at(tag).get<Values>(); };
  EXPECT_EQ(values("top1/test"), (Values{{1, 0.5}, {3, 0.5}, {4, 0.625}}));
  EXPECT_EQ(values("top5/test"), (Values{{1, 0.75}, {3, 0.75}, {4, 0.75}}));
  EXPECT_EQ(values("loss/train"), (Values{{1, 0.25}, {2, 0.5}, {3, 0.75}, {4, 1.0}}));
  EXPECT_EQ(values("learning_rate"), (Values{{1, 0.5}, {2, 0.5}, {3, 0.5}, {4, 0.5}}));
  EXPECT_FALSE(scalars.contains("top5/train"));
}

}  // namespace
}  // namespace train_tensorboard_test
