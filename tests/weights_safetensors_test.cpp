// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <bsconv/weights/safetensors.hpp>

#include <cstdint>
#include <cstring>
#include <map>
#include <string>

#include "test_files.hpp"

// Tests are compiled several files at a time.
namespace weights_safetensors_test {
namespace {

using bsconv::weights::load_safetensors;
using bsconv::weights::save_safetensors;
using bsconv::weights::StateDict;
using bsconv_test::error_of;
using bsconv_test::read_file;
using bsconv_test::TemporaryDirectory;
using bsconv_test::write_file;
using testing::ElementsAre;
using testing::HasSubstr;

std::string with_length(const std::string& header, const std::string& data) {
  const uint64_t length = header.size();
  std::string text(8, '\0');
  std::memcpy(text.data(), &length, 8);
  return text + header + data;
}

/// The error for a file of this header and data.
std::string error_for(const std::string& header, const std::string& data) {
  const TemporaryDirectory directory;
  write_file(directory / "x.safetensors", with_length(header, data));
  return error_of([&] { load_safetensors(directory / "x.safetensors"); });
}

std::string entry(const std::string& name, const std::string& dtype, const std::string& shape,
                  const std::string& offsets) {
  return "\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":" + shape +
         ",\"data_offsets\":" + offsets + "}";
}

TEST(WeightsSafetensors, KeepsEveryDtypeShapeOrderAndMetadata) {
  const TemporaryDirectory directory;
  torch::manual_seed(1);
  StateDict state;
  for (const auto& known : bsconv::weights::detail::safetensors_types) {
    const auto values = (torch::rand({3, 5}) * 2).to(known.type);
    state.insert("z." + std::string(known.name), values);
  }
  state.insert("scalar", torch::tensor(1.5));
  state.insert("empty", torch::zeros({0, 4}));
  state.insert("view", torch::arange(12).view({3, 4}).t());
  state.insert("\u00fc \"quoted\"\n\u4e2d", torch::ones({1}));
  const std::map<std::string, std::string> metadata = {{"a", "1"}, {"b", "\u00e9\""}};
  save_safetensors(directory / "x", state, metadata);
  const auto loaded = load_safetensors(directory / "x");
  EXPECT_EQ(loaded.metadata, metadata);
  EXPECT_EQ(loaded.tensors.keys(), state.keys());
  for (const auto& item : state) {
    const auto& found = loaded.tensors[item.key()];
    EXPECT_EQ(found.scalar_type(), item.value().scalar_type()) << item.key();
    EXPECT_EQ(found.sizes(), item.value().sizes()) << item.key();
    const auto expected = item.value().contiguous();
    if (expected.nbytes() == 0) {
      continue;
    }
    EXPECT_EQ(std::memcmp(found.const_data_ptr(), expected.const_data_ptr(), expected.nbytes()), 0)
        << item.key();
  }
}

TEST(WeightsSafetensors, WritesWhatAViewShows) {
  const TemporaryDirectory directory;
  const auto negative = torch::_neg_view(torch::ones({3}));
  const auto complex = torch::complex(torch::ones({3}), torch::arange(3).to(torch::kFloat));
  StateDict state;
  state.insert("negative", negative);
  state.insert("conjugate", complex.conj());
  bsconv::weights::save_safetensors(directory.path() / "a", state);
  EXPECT_TRUE(
      torch::equal(bsconv::weights::load_safetensors(directory.path() / "a").tensors["negative"],
                   -torch::ones({3})));
  EXPECT_TRUE(
      torch::equal(bsconv::weights::load_safetensors(directory.path() / "a").tensors["conjugate"],
                   complex.conj().resolve_conj()));
}

TEST(WeightsSafetensors, AlignsTheDataForMapping) {
  const TemporaryDirectory directory;
  StateDict state;
  state.insert("flag", torch::ones({3}, torch::kBool));
  state.insert("long", torch::ones({1}, torch::kLong));
  save_safetensors(directory / "x", state);
  const auto text = read_file(directory / "x");
  uint64_t length = 0;
  std::memcpy(&length, text.data(), 8);
  EXPECT_EQ(length % 8, 0U);
  EXPECT_THAT(text, HasSubstr(entry("flag", "BOOL", "[3]", "[8,11]")));
  EXPECT_THAT(text, HasSubstr(entry("long", "I64", "[1]", "[0,8]")));
}

TEST(WeightsSafetensors, ReadsAnEmptyFile) {
  const TemporaryDirectory directory;
  save_safetensors(directory / "x", StateDict());
  EXPECT_EQ(load_safetensors(directory / "x").tensors.size(), 0U);
}

TEST(WeightsSafetensors, ReadsTheFormatsOwnExample) {
  const TemporaryDirectory directory;
  write_file(directory / "x",
             with_length("{\"__metadata__\":{\"k\":\"v\"}," + entry("b", "F32", "[1,1]", "[4,8]") +
                             "," + entry("a", "F32", "[]", "[0,4]") + "}  ",
                         std::string("\x00\x00\x80\x3f\x00\x00\x00\x40", 8)));
  const auto loaded = load_safetensors(directory / "x");
  EXPECT_THAT(loaded.tensors.keys(), ElementsAre("b", "a"));
  EXPECT_EQ(loaded.tensors["a"].item<float>(), 1);
  EXPECT_EQ(loaded.tensors["b"].item<float>(), 2);
  EXPECT_EQ(loaded.metadata.at("k"), "v");
}

TEST(WeightsSafetensors, RefusesWhatItCannotWrite) {
  const TemporaryDirectory directory;
  const auto save = [&](const std::string& name, const torch::Tensor& tensor) {
    StateDict state;
    state.insert(name, tensor);
    return error_of([&] { save_safetensors(directory / "x", state); });
  };
  EXPECT_THAT(save("a", {}), HasSubstr("tensor 'a' is undefined"));
  EXPECT_THAT(save("a", torch::zeros({1}, torch::kComplexDouble)),
              HasSubstr("safetensors has no dtype for tensor 'a' of ComplexDouble"));
  EXPECT_THAT(save("__metadata__", torch::zeros({1})), HasSubstr("cannot be named"));
  EXPECT_THAT(save("\xff", torch::zeros({1})), HasSubstr("is not UTF-8"));
  EXPECT_EQ(bsconv_test::count_files(directory.path()), 0);
}

TEST(WeightsSafetensors, RefusesFilesThatAreNone) {
  const TemporaryDirectory directory;
  const auto path = directory / "x";
  const auto load = [&] { return error_of([&] { load_safetensors(path); }); };
  EXPECT_THAT(load(), HasSubstr("safetensors file '" + path.native() + "' does not exist"));
  write_file(path, "1234567");
  EXPECT_THAT(load(), HasSubstr("has 7 bytes, too few for the header's length"));
  write_file(path, std::string("\x0a\0\0\0\0\0\0\0{}", 10));
  EXPECT_THAT(load(), HasSubstr("the header's length is 10 bytes, but only 2 follow"));
  write_file(path, std::string(8, '\xff') + "{}");
  EXPECT_THAT(load(), HasSubstr("the header's length is 18446744073709551615 bytes; at most "
                                "100000000 are allowed"));
  EXPECT_THAT(error_of([&] { load_safetensors(directory.path()); }),
              HasSubstr("is not a regular file"));
}

TEST(WeightsSafetensors, RefusesHostileHeaders) {
  const std::string eight(8, '\0');
  const auto good = entry("a", "F32", "[2]", "[0,8]");
  EXPECT_EQ(error_for("{" + good + "}", eight), "no error");
  EXPECT_EQ(error_for("{\"__metadata__\":null," + good + "}", eight), "no error");
  const struct {
    std::string header;
    std::string message;
  } cases[] = {
      {"", "not valid JSON"},
      {"{", "not valid JSON at byte"},
      {"{" + good + "} x", "not valid JSON at byte"},
      {"{\"\xff\":1}", "not valid JSON at byte"},
      {"{" + good + "}" + std::string(1, '\0') + "x", "not valid JSON: it has a byte of zero"},
      {"\xef\xbb\xbf{" + good + "}", "a byte order mark"},
      {"{\"a\":null}", "unexpected null in 'a'"},
      {"[]", "unexpected a list"},
      {"7", "unexpected the number 7"},
      {"null", "unexpected null"},
      {"{\"a\":true}", "unexpected a boolean in 'a'"},
      {"{\"a\":-1}", "unexpected the number -1 in 'a'"},
      {"{\"a\":1.5}", "unexpected the number 1.5 in 'a'"},
      {"{\"a\":\"b\"}", "unexpected the string 'b' in 'a'"},
      {"{\"a\":[1]}", "unexpected a list in 'a'"},
      {"{\"a\":{\"dtype\":{}}}", "unexpected an object in 'a'"},
      {"{\"a\":{}}", "dtype, shape or data_offsets is missing in 'a'"},
      {"{\"a\":{\"more\":1}}", "unknown field 'more' in 'a'"},
      {"{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\"}}", "the name 'dtype' occurs twice in 'a'"},
      {"{\"__metadata__\":{\"k\":1}}", "unexpected the number 1 in '__metadata__'"},
      {"{\"__metadata__\":{\"k\":\"1\",\"k\":\"2\"}}", "the name 'k' occurs twice"},
      {"{" + good + "," + good + "}", "the name 'a' occurs twice"},
      {"{" + entry("a", "F31", "[2]", "[0,8]") + "}", "unknown dtype 'F31' in 'a'; known are F64"},
      {"{" + entry("a", "F32", "[-2]", "[0,8]") + "}", "unexpected the number -2 in 'a'"},
      {"{" + entry("a", "F32", "[2.0]", "[0,8]") + "}", "unexpected the number 2.0 in 'a'"},
      {"{" + entry("a", "F32", "[[2]]", "[0,8]") + "}", "unexpected a list in 'a'"},
      {"{" + entry("a", "F32", "[18446744073709551615]", "[0,8]") + "}",
       "a dimension of 18446744073709551615 in 'a'"},
      {"{" + entry("a", "F32", "[2]", "[0]") + "}", "data_offsets has 1 numbers instead of 2"},
      {"{" + entry("a", "F32", "[2]", "[0,8,8]") + "}", "data_offsets has 3 numbers instead of 2"},
      {"{" + entry("a", "F32", "[2]", "[8,0]") + "}", "has data_offsets [8, 0], outside"},
      {"{" + entry("a", "F32", "[3]", "[0,12]") + "}",
       "'a' has data_offsets [0, 12], outside the file's 8 bytes of data"},
      {"{" + entry("a", "F32", "[1]", "[0,8]") + "}",
       "'a', Float [1], needs 4 bytes, but its data_offsets span 8"},
      // 2^31 * 2^31 * 4 and 2^62 * 4 wrap to zero in 64 bits; so does 2^40 * 2^40 beside a zero.
      {"{" + entry("a", "F32", "[2147483648,2147483648]", "[0,0]") + "}",
       "the size of 'a', shape [2147483648, 2147483648], overflows"},
      {"{" + entry("a", "F32", "[4611686018427387904]", "[0,0]") + "}", "overflows"},
      {"{" + entry("a", "F32", "[0,1099511627776,1099511627776]", "[0,0]") + "}", "overflows"},
      {"{" + entry("a", "F32", "[1]", "[0,4]") + "," + entry("b", "F32", "[2]", "[0,8]") + "}",
       "'b' starts at byte 0 of the data, inside the tensor before it, which ends at 4"},
      {"{" + entry("a", "U8", "[2]", "[0,2]") + "," + entry("b", "U8", "[5]", "[3,8]") + "}",
       "'b' starts at byte 3 of the data, after a gap to the tensor before it, which ends at 2"},
      {"{" + entry("a", "F32", "[1]", "[0,4]") + "}", "4 bytes follow the last tensor"},
      {"{}", "8 bytes follow the last tensor"},
  };
  for (const auto& item : cases) {
    EXPECT_THAT(error_for(item.header, eight), HasSubstr(item.message)) << item.header;
  }
  EXPECT_THAT(error_for("{" + entry("a", "BOOL", "[2]", "[0,2]") + "}", "\x01\x02"),
              HasSubstr("'a' is BOOL but has bytes other than 0 and 1"));
}

TEST(WeightsSafetensors, RefusesDeepNestingAndLongLists) {
  EXPECT_THAT(error_for(std::string(1000000, '['), ""), HasSubstr("unexpected a list"));
  std::string numbers = "1";
  for (int i = 0; i < 2000; ++i) {
    numbers += ",1";
  }
  EXPECT_THAT(error_for("{" + entry("a", "U8", "[" + numbers + "]", "[0,1]") + "}", "x"),
              HasSubstr("more than 1024 numbers in one list in 'a'"));
}

TEST(WeightsSafetensors, RefusesAFileCutAtAnyByte) {
  const TemporaryDirectory directory;
  StateDict state;
  state.insert("weight", torch::rand({3, 2}));
  state.insert("flag", torch::ones({3}, torch::kBool));
  save_safetensors(directory / "x", state, {{"k", "v"}});
  const auto whole = read_file(directory / "x");
  for (std::size_t size = 0; size < whole.size(); ++size) {
    write_file(directory / "cut", whole.substr(0, size));
    EXPECT_NE(error_of([&] { load_safetensors(directory / "cut"); }), "no error") << size;
  }
  write_file(directory / "cut", whole + "x");
  EXPECT_THAT(error_of([&] { load_safetensors(directory / "cut"); }),
              HasSubstr("1 bytes follow the last tensor"));
}

}  // namespace
}  // namespace weights_safetensors_test
