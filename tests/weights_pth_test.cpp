// SPDX-License-Identifier: BSD-3-Clause-Clear
// Files of Python's torch.save: those in golden/pth, which make.py wrote, and damaged ones.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>
#include <bsconv/weights.hpp>

#include <sys/resource.h>

#include <algorithm>
#include <csignal>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "support/child.hpp"
#include "test_files.hpp"

namespace weights_pth_test {
namespace {

using bsconv::weights::load_pth;
using bsconv::weights::PthOptions;
using bsconv::weights::save_pth;
using bsconv::weights::StateDict;
using bsconv_test::TemporaryDirectory;
using testing::ElementsAre;
using testing::HasSubstr;

std::filesystem::path golden(const std::string& name) {
  return std::filesystem::path(BSCONV_TEST_DATA_DIR) / "pth" / name;
}

std::string read(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void write(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

template <class Call>
std::string error_of(Call&& call) {
  try {
    call();
  } catch (const c10::Error& error) {
    return error.what_without_backtrace();
  }
  return "no error";
}

std::vector<std::string> names(const StateDict& state) { return state.keys(); }

void expect_golden(const StateDict& state) {
  const auto base = torch::arange(24.0).reshape({4, 6});
  EXPECT_TRUE(torch::equal(state["base"], base));
  EXPECT_TRUE(torch::equal(state["rows"], base.slice(0, 1, 3).slice(1, 0, 6, 2)));
  EXPECT_TRUE(torch::equal(state["transposed"], base.t()));
  EXPECT_EQ(state["rows"].strides(), (std::vector<int64_t>{6, 2}));
  EXPECT_TRUE(state["rows"].is_alias_of(state["base"]));
  EXPECT_TRUE(state["transposed"].is_alias_of(state["base"]));
  EXPECT_TRUE(torch::equal(state["long"], torch::arange(5)));
  EXPECT_EQ(state["scalar"].item<double>(), 2.5);
  EXPECT_EQ(state["scalar"].dim(), 0);
  EXPECT_EQ(state["empty"].sizes(), (std::vector<int64_t>{0, 3}));
  EXPECT_TRUE(torch::equal(state["bfloat16"], torch::ones({3}, torch::kBFloat16)));
  EXPECT_TRUE(torch::equal(state["half"], torch::ones({3}, torch::kHalf)));
  EXPECT_TRUE(torch::equal(state["bool"], torch::tensor({true, false})));
  EXPECT_EQ(state["int8"].item<int64_t>(), -1);
  EXPECT_EQ(state["uint8"].item<int64_t>(), 255);
  EXPECT_EQ(state["int16"].item<int64_t>(), -300);
  EXPECT_EQ(state["int32"].item<int64_t>(), 70000);
  EXPECT_EQ(state["int32"].scalar_type(), torch::kInt);
  EXPECT_EQ(state["complex"].item<c10::complex<float>>(), c10::complex<float>(1, 2));
  EXPECT_TRUE(torch::equal(state["repeated"], torch::ones({5})));
  EXPECT_TRUE(state.contains("ключ.é"));
  EXPECT_EQ(state.size(), 16U);
}

TEST(WeightsPth, ReadsEveryFormatOfPython) {
  for (const auto* name : {"zip.pth", "protocol4.pth", "legacy.pth"}) {
    SCOPED_TRACE(name);
    expect_golden(load_pth(golden(name)));
  }
}

TEST(WeightsPth, ReadsTypesThatHaveNoStorageType) {
  const auto state = load_pth(golden("untyped.pth"));
  EXPECT_EQ(state.size(), 5U);
  EXPECT_EQ(state["torch.uint64"].scalar_type(), torch::kUInt64);
  EXPECT_EQ(state["torch.float8_e5m2"].scalar_type(), torch::kFloat8_e5m2);
  for (const auto& item : state) {
    EXPECT_TRUE(item.value().to(torch::kFloat).equal(torch::tensor({1.0F, 2.0F}))) << item.key();
  }
}

TEST(WeightsPth, ReadsConjugatesAndNegatives) {
  const auto conjugate = load_pth(golden("conjugate.pth"))["conjugate"];
  EXPECT_FALSE(conjugate.is_conj());
  EXPECT_EQ(conjugate[0].item<c10::complex<float>>(), c10::complex<float>(1, -2));
  const auto negative = load_pth(golden("negative.pth"))["negative"];
  EXPECT_FALSE(negative.is_neg());
  EXPECT_TRUE(torch::equal(negative, torch::tensor({-2.0F, 4.0F})));
}

TEST(WeightsPth, WritesMemoryOfTwoTypesOnceAsEach) {
  const TemporaryDirectory folder;
  const auto numbers = torch::randn({4}, torch::kComplexFloat);
  StateDict state;
  state.insert("complex", numbers);
  state.insert("real", torch::view_as_real(numbers));
  state.insert("again", numbers);
  save_pth(folder.path() / "two.pth", state);
  const auto loaded = load_pth(folder.path() / "two.pth");
  for (const auto& item : state) {
    EXPECT_TRUE(torch::equal(loaded[item.key()], item.value())) << item.key();
  }
  EXPECT_TRUE(loaded["again"].is_alias_of(loaded["complex"]));
}

TEST(WeightsPth, LoadsIntoAModule) {
  torch::nn::Sequential model(torch::nn::Conv2d(2, 2, 1), torch::nn::BatchNorm2d(2));
  const auto state = load_pth(golden("module.pth"));
  EXPECT_THAT(names(state),
              ElementsAre("0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean",
                          "1.running_var", "1.num_batches_tracked"));
  bsconv::weights::load_state_dict(*model, state);
  EXPECT_TRUE(torch::equal(model->named_parameters()["0.weight"], state["0.weight"]));
  EXPECT_THAT(names(load_pth(golden("parameters.pth"))), ElementsAre("weight"));
}

TEST(WeightsPth, FindsTheTensorsOfACheckpoint) {
  const auto found = load_pth(golden("checkpoint.pth"));
  EXPECT_EQ(found.size(), 7U);
  EXPECT_EQ(load_pth(golden("checkpoint.pth"), PthOptions().key("model_state_dict")).size(), 7U);
  EXPECT_THAT(error_of([] { load_pth(golden("checkpoint.pth"), PthOptions().key("ema")); }),
              HasSubstr("there is no 'ema'; the file has 'epoch' (a number), 'model_state_dict' (a "
                        "dictionary of 7)"));
  EXPECT_THAT(error_of([] { load_pth(golden("checkpoint.pth"), PthOptions().key("epoch")); }),
              HasSubstr("'epoch' leads to a number, not a dictionary"));
  EXPECT_THAT(error_of([] { load_pth(golden("checkpoint.pth"), PthOptions().key("args")); }),
              HasSubstr("'lr' is a number, not a tensor"));
  EXPECT_THAT(error_of([] { load_pth(golden("nested.pth")); }),
              HasSubstr("choose one with `key`. The file has 'epoch' (a number), 'net'"));
  EXPECT_THAT(names(load_pth(golden("nested.pth"), PthOptions().key("net.a.b"))), ElementsAre("w"));
}

TEST(WeightsPth, RefusesCodeAndExecutesNothing) {
  const std::string trace = "/tmp/bsconv-pickle-was-executed";
  std::filesystem::remove(trace);
  EXPECT_THAT(error_of([] { load_pth(golden("evil.pth")); }),
              HasSubstr("the global 'posix.system' is not allowed; only tensors and plain "
                        "containers can be loaded"));
  EXPECT_FALSE(std::filesystem::exists(trace));
  EXPECT_THAT(error_of([] { load_pth(golden("whole_model.pth")); }),
              HasSubstr("torch.nn.modules.container.Sequential"));
}

TEST(WeightsPth, SaysWhatToDoWithFilesOfCppsTorchSave) {
  const TemporaryDirectory folder;
  const std::string saved = (folder.path() / "a.pt").native();
  const torch::nn::Linear module(2, 3);
  torch::save(module, saved);
  EXPECT_THAT(error_of([&] { load_pth(saved); }),
              HasSubstr("it is a TorchScript model, or a file of C++'s torch::save; in Python save "
                        "the model's state_dict() with torch.save, in C++ torch::load the file "
                        "into its module, then bsconv::weights::save_weights(path, "
                        "bsconv::weights::state_dict(*module))"));
  // What it says can be done.
  torch::nn::Linear loaded(2, 3);
  torch::load(loaded, saved);
  bsconv::weights::save_weights(folder.path() / "b.pth", bsconv::weights::state_dict(*loaded));
  EXPECT_TRUE(torch::equal(load_pth(folder.path() / "b.pth")["weight"], module->weight));
}

TEST(WeightsPth, RoundTripsEveryDtypeAndShape) {
  const TemporaryDirectory folder;
  const auto path = folder.path() / "all.pth";
  StateDict state;
  for (const auto type : {torch::kFloat,
                          torch::kDouble,
                          torch::kHalf,
                          torch::kBFloat16,
                          torch::kLong,
                          torch::kInt,
                          torch::kShort,
                          torch::kChar,
                          torch::kByte,
                          torch::kBool,
                          torch::kComplexFloat,
                          torch::kComplexDouble,
                          torch::kUInt16,
                          torch::kUInt32,
                          torch::kUInt64,
                          torch::kFloat8_e4m3fn,
                          torch::kFloat8_e5m2,
                          torch::kFloat8_e4m3fnuz,
                          torch::kFloat8_e5m2fnuz,
                          torch::kFloat8_e8m0fnu}) {
    state.insert(std::string("t.") + c10::toString(type), torch::ones({2, 3}).to(type));
  }
  const auto base = torch::randn({4, 5});
  state.insert("base", base);
  state.insert("again", base);
  state.insert("view", base.slice(0, 1, 3));
  state.insert("transposed", base.t());
  state.insert("scalar", torch::tensor(1.5));
  state.insert("empty", torch::empty({0, 7}));
  state.insert("long", torch::arange(70000));
  state.insert("имя.with \"quotes\"", torch::ones({1}));
  save_pth(path, state);
  const auto loaded = load_pth(path);
  EXPECT_EQ(loaded.keys(), state.keys());
  for (const auto& item : state) {
    EXPECT_EQ(loaded[item.key()].scalar_type(), item.value().scalar_type()) << item.key();
    EXPECT_TRUE(torch::equal(loaded[item.key()].to(torch::kComplexDouble),
                             item.value().to(torch::kComplexDouble)))
        << item.key();
  }
  EXPECT_TRUE(loaded["again"].is_alias_of(loaded["base"]));
  EXPECT_EQ(bsconv::weights::load_weights(path).format, bsconv::weights::WeightFormat::pth);
}

TEST(WeightsPth, WritingRefusesWhatTheFormatLacks) {
  const TemporaryDirectory folder;
  const auto path = folder.path() / "a.pth";
  StateDict state;
  state.insert("none", torch::Tensor());
  EXPECT_THAT(error_of([&] { save_pth(path, state); }), HasSubstr("tensor 'none' is undefined"));
  StateDict other;
  other.insert("half", torch::zeros({2}, torch::kComplexHalf));
  EXPECT_THAT(error_of([&] { save_pth(path, other); }), HasSubstr("can't hold 'half'"));
  StateDict odd;
  odd.insert("\xff", torch::ones({2}));
  EXPECT_THAT(error_of([&] { save_pth(path, odd); }), HasSubstr("a name is not UTF-8"));
  EXPECT_FALSE(std::filesystem::exists(path));
  save_pth(path, StateDict());
  EXPECT_TRUE(load_pth(path).is_empty());
  EXPECT_THAT(error_of([&] { save_pth("/nonexistent/a.pth", StateDict()); }),
              HasSubstr("cannot write '/nonexistent/a.pth': No such file or directory"));
}

TEST(WeightsPth, LeavesTheOldFileWhenTheSizeLimitIsReached) {
  const TemporaryDirectory folder;
  const auto path = folder.path() / "a.pth";
  write(path, "old");
  StateDict state;
  state.insert("a", torch::ones({2000}));
  state.insert("b", torch::ones({2000}));
  const int status = bsconv_test::in_child([&] {
    std::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{4096, 4096};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    const auto message = error_of([&] { save_pth(path, state); });
    return message.find("a.pth': File too large") != std::string::npos ? 0 : 1;
  });
  EXPECT_EQ(status, 0);
  EXPECT_EQ(read(path), "old");
  EXPECT_EQ(bsconv_test::count_files(folder.path()), 1);
}

TEST(WeightsPth, TensorsOutliveTheFile) {
  const TemporaryDirectory folder;
  const auto path = folder.path() / "a.pth";
  std::filesystem::copy_file(golden("zip.pth"), path);
  auto state = load_pth(path);
  std::filesystem::remove(path);
  state["base"].mul_(2);
  EXPECT_EQ(state["rows"][0][0].item<float>(), 12.0F);
}

// An error for every prefix of a file, never a crash.
TEST(WeightsPth, TruncatedAnywhereIsAnError) {
  const TemporaryDirectory folder;
  for (const auto* name : {"module.pth", "legacy.pth"}) {
    const auto whole = read(golden(name));
    const auto path = folder.path() / name;
    for (std::size_t size = 0; size < whole.size(); size += size < 3000 ? 1 : 7) {
      write(path, whole.substr(0, size));
      ASSERT_NE(error_of([&] { load_pth(path); }), "no error") << name << " " << size;
    }
  }
}

// A changed byte is either an error or another value, never a crash.
TEST(WeightsPth, ChangedBytesDoNoHarm) {
  const TemporaryDirectory folder;
  torch::manual_seed(3);
  int refused = 0;
  for (const auto* name : {"zip.pth", "legacy.pth", "protocol4.pth"}) {
    const auto whole = read(golden(name));
    const auto path = folder.path() / name;
    for (int i = 0; i < 4000; ++i) {
      auto damaged = whole;
      for (int n = torch::randint(1, 4, {1}).item<int>(); n > 0; --n) {
        const auto at = torch::randint(static_cast<int64_t>(whole.size()), {1}).item<int64_t>();
        damaged[static_cast<std::size_t>(at)] =
            static_cast<char>(torch::randint(256, {1}).item<int>());
      }
      write(path, damaged);
      const auto error = error_of([&] {
        for (const auto& item : load_pth(path)) {
          item.value().sum();
        }
      });
      refused += error == "no error" ? 0 : 1;
    }
  }
  EXPECT_GT(refused, 100);
}

// Pickles written by hand.
std::string pickle_error(const std::string& pickle) {
  return error_of([&] { bsconv::weights::detail::PickleReader(pickle, "file 'x'").read(); });
}

TEST(WeightsPickle, HostileOnesEndInErrors) {
  EXPECT_THAT(pickle_error("\x80\x02"
                           "cos\nsystem\n(X\x02\0\0\0lstR."),
              HasSubstr("'os.system' is not allowed"));
  EXPECT_THAT(pickle_error("\x80\x02."), HasSubstr("it leaves 0 values"));
  EXPECT_THAT(pickle_error("\x80\x02NN."), HasSubstr("it leaves 2 values"));
  EXPECT_THAT(pickle_error("\x80\x01N."), HasSubstr("protocol 1 is not supported"));
  EXPECT_THAT(pickle_error("\x80\x02h\x05."), HasSubstr("value 5 is not in its memo"));
  EXPECT_THAT(pickle_error("\x80\x02t."), HasSubstr("a mark is missing"));
  EXPECT_THAT(pickle_error("\x80\x02NNs."), HasSubstr("its stack is empty"));
  EXPECT_THAT(pickle_error("\x80\x02NNa."), HasSubstr("something else than a container"));
  EXPECT_THAT(pickle_error("\x80\x02i."), HasSubstr("opcode 0x69 is not allowed"));
  EXPECT_THAT(pickle_error("\x80\x02X\xff\xff\xff\xff"
                           "abc"),
              HasSubstr("it ends within a value"));
  EXPECT_THAT(pickle_error(std::string("\x80\x02\x8d\xff\xff\xff\xff\xff\xff\xff\xff", 11)),
              HasSubstr("it ends within a value"));
  EXPECT_THAT(pickle_error("\x80\x02"
                           "cos\nsystem"),
              HasSubstr("it ends within a name"));
  EXPECT_THAT(pickle_error("\x80\x02N)R."), HasSubstr("something else than a global is called"));
  EXPECT_THAT(pickle_error("\x80\x02"
                           "ctorch\nfloat32\n)R."),
              HasSubstr("'torch.float32' is called"));
  EXPECT_THAT(pickle_error("\x80\x02NQ."), HasSubstr("an unknown persistent value"));
  EXPECT_THAT(pickle_error("\x80\x02NNb."), HasSubstr("attributes of something else"));
}

TEST(WeightsPickle, DeepNestingTakesNoStack) {
  std::string deep = "\x80\x02";
  for (int i = 0; i < 200'000; ++i) {
    deep += "]";
  }
  for (int i = 1; i < 200'000; ++i) {
    deep += "a";
  }
  EXPECT_EQ(pickle_error(deep + "."), "no error");
  // A list within itself.
  EXPECT_EQ(pickle_error("\x80\x02]q\x01h\x01"
                         "a."),
            "no error");
}

TEST(WeightsPickle, ValuesThatAreReferredToAgainAndAgainAreBounded) {
  // A list of 3000 pairs, of which 3000 dictionaries are made.
  std::string bomb = "\x80\x02]q";
  bomb += '\0';
  bomb += "(";
  for (int i = 0; i < 3000; ++i) {
    bomb += "NN\x86";
  }
  bomb += "e(";
  for (int i = 0; i < 3000; ++i) {
    bomb += "ccollections\nOrderedDict\nh";
    bomb += '\0';
    bomb += "\x85R";
  }
  bomb += "t.";
  EXPECT_THAT(pickle_error(bomb), HasSubstr("its containers hold more values than it can define"));
}

TEST(WeightsPickle, CallsAndKeysThatWouldOnlyTakeMemoryOrTimeAreRefused) {
  const auto text = [](const std::string& value) {
    const auto size = static_cast<uint32_t>(value.size());
    return "X" + std::string(reinterpret_cast<const char*>(&size), sizeof size) + value;
  };
  const auto storage = [&](const std::string& key, const std::string& more) {
    return "\x80\x02(" + text("storage") + "ctorch\nFloatStorage\n" + text(key) + text("cpu") +
           "K\x01" + more + "tQ.";
  };
  EXPECT_EQ(pickle_error(storage(std::string(255, 'k'), "N")), "no error");
  EXPECT_THAT(pickle_error(storage(std::string(256, 'k'), "N")),
              HasSubstr("a storage's key is longer than 255 bytes"));
  EXPECT_THAT(pickle_error(storage("k", "NN")), HasSubstr("an unknown persistent value"));
  EXPECT_THAT(pickle_error("\x80\x02"
                           "ctorch\ndevice\n(" +
                           text("cpu") + std::string(16, 'N') + "tR."),
              HasSubstr("a call has too many arguments"));
}

TEST(WeightsZip, EntriesThatOverlapAreRefused) {
  const auto whole = read(golden("module.pth"));
  // Every entry a second time, at the same place under another name.
  const auto directory = whole.find("PK\x01\x02");
  const auto end = whole.find("PK\x05\x06");
  const auto zip64 = whole.find("PK\x06\x06");
  const auto directory_end = std::min(end, zip64);
  std::string entries = whole.substr(directory, directory_end - directory);
  std::string others = entries;
  for (std::size_t at = others.find("PK\x01\x02"); at != std::string::npos;
       at = others.find("PK\x01\x02", at + 1)) {
    ++others[at + 46];
  }
  const auto count = static_cast<uint16_t>(2 * (static_cast<unsigned char>(whole[end + 10])));
  const auto size = static_cast<uint32_t>(2 * entries.size());
  const auto offset = static_cast<uint32_t>(directory);
  std::string record("PK\x05\x06\0\0\0\0", 8);
  const auto append = [&record](const auto& value) {
    record.append(reinterpret_cast<const char*>(&value), sizeof value);
  };
  append(count);
  append(count);
  append(size);
  append(offset);
  append(uint16_t{0});
  const auto bytes = whole.substr(0, directory) + entries + others + record;
  EXPECT_THAT(error_of([&] { bsconv::weights::detail::ZipReader(bytes, "file 'x'"); }),
              HasSubstr("its entries overlap"));
}

TEST(WeightsZip, HostileOnesEndInErrors) {
  const auto zip_error = [](const std::string& bytes) {
    return error_of([&] { bsconv::weights::detail::ZipReader(bytes, "file 'x'"); });
  };
  const auto whole = read(golden("module.pth"));
  EXPECT_EQ(zip_error(whole), "no error");
  EXPECT_THAT(zip_error("PK\x03\x04"), HasSubstr("it has 4 bytes"));
  EXPECT_THAT(zip_error(whole + "x"), HasSubstr("it has no end record; it may be cut off"));
  const auto directory = whole.find("PK\x01\x02");
  const auto changed = [&](std::size_t at, const std::string& bytes) {
    return std::string(whole).replace(directory + at, bytes.size(), bytes);
  };
  EXPECT_THAT(zip_error(changed(8, "\x01")), HasSubstr("is encrypted"));
  EXPECT_THAT(zip_error(changed(10, "\x08")), HasSubstr("is compressed"));
  EXPECT_THAT(zip_error(changed(20, "\x01\x02\x03\x04")), HasSubstr("two sizes"));
  EXPECT_THAT(zip_error(changed(20, "\xf0\xff\xff\x0f\xf0\xff\xff\x0f")),
              HasSubstr("reaches beyond the archive"));
  EXPECT_THAT(zip_error(changed(42, "\xf0\xff\xff\x0f")), HasSubstr("is not where"));
  EXPECT_THAT(zip_error(changed(0, "PK\x07\x07")), HasSubstr("its directory is damaged"));
}

TEST(WeightsFile, IsToldByContentNotByName) {
  const TemporaryDirectory folder;
  StateDict state;
  state.insert("w", torch::ones({2, 2}));
  const auto safetensors = folder.path() / "a.safetensors";
  const auto pth = folder.path() / "a.pth";
  bsconv::weights::save_weights(safetensors, state, {{"k", "v"}});
  bsconv::weights::save_weights(pth, state);
  std::filesystem::rename(safetensors, folder.path() / "b.pth");
  std::filesystem::rename(pth, folder.path() / "b.safetensors");
  const auto first = bsconv::weights::load_weights(folder.path() / "b.pth");
  EXPECT_EQ(first.format, bsconv::weights::WeightFormat::safetensors);
  EXPECT_EQ(first.metadata.at("k"), "v");
  EXPECT_TRUE(torch::equal(first.tensors["w"], state["w"]));
  const auto second = bsconv::weights::load_weights(folder.path() / "b.safetensors");
  EXPECT_EQ(second.format, bsconv::weights::WeightFormat::pth);
  // The length of a header may be the first byte of a pickle.
  const auto path = folder.path() / "header";
  std::string filling;
  do {
    filling += 'x';
    bsconv::weights::save_safetensors(path, state, {{"k", filling}});
  } while (read(path)[0] != '\x80');
  EXPECT_TRUE(torch::equal(bsconv::weights::load_weights(path).tensors["w"], state["w"]));
  write(folder.path() / "c", "neither one nor the other");
  EXPECT_THAT(error_of([&] { bsconv::weights::load_weights(folder.path() / "c"); }),
              HasSubstr("is neither a safetensors file nor one that torch.save writes"));
  EXPECT_THAT(error_of([&] { bsconv::weights::load_weights(folder.path() / "d"); }),
              HasSubstr("does not exist"));
  EXPECT_THAT(error_of([&] { bsconv::weights::save_weights(folder.path() / "e.zip", state); }),
              HasSubstr("the name must end in .safetensors, .pth, .pt or .bin"));
}

TEST(WeightsKeys, AreRenamed) {
  StateDict state;
  state.insert("module.a", torch::ones({1}));
  state.insert("b", torch::ones({1}));
  EXPECT_THAT(names(bsconv::weights::strip_prefix(state, "module.")), ElementsAre("a", "b"));
  EXPECT_THAT(error_of([&] {
                bsconv::weights::rename_keys(state, [](const std::string&) { return "x"; });
              }),
              HasSubstr("'b' and another name both become 'x'"));
}

// Five gigabytes of which only the header and one number are ever read.
TEST(WeightsFile, LargeSparseFilesAreNotReadWhole) {
  const TemporaryDirectory folder;
  const auto path = folder.path() / "large.safetensors";
  const int64_t count = int64_t{5} << 28;
  std::string header = R"({"w":{"dtype":"F32","shape":[)" + std::to_string(count) +
                       R"(],"data_offsets":[0,)" + std::to_string(count * 4) + "]}}";
  header.append((8 - header.size() % 8) % 8, ' ');
  const uint64_t length = header.size();
  std::string start(reinterpret_cast<const char*>(&length), sizeof(length));
  write(path, start + header);
  std::filesystem::resize_file(path, sizeof(length) + length + static_cast<uint64_t>(count) * 4);
  const auto loaded = bsconv::weights::load_weights(path);
  EXPECT_EQ(loaded.tensors["w"].numel(), count);
  EXPECT_EQ(loaded.tensors["w"][count - 1].item<float>(), 0.0F);
}

}  // namespace
}  // namespace weights_pth_test
