// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <bsconv/util/file_digest.hpp>

#include "test_files.hpp"

// Tests are compiled several files at a time.
namespace util_file_digest_test {
namespace {

using bsconv::md5_of_file;
using bsconv::sha256_of_file;
using bsconv_test::error_of;
using bsconv_test::TemporaryDirectory;
using bsconv_test::write_file;
using testing::HasSubstr;

TEST(UtilFileDigest, IsTheKnownSum) {
  const TemporaryDirectory directory;
  write_file(directory / "a", "");
  EXPECT_EQ(md5_of_file(directory / "a"), "d41d8cd98f00b204e9800998ecf8427e");
  EXPECT_EQ(sha256_of_file(directory / "a"),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  write_file(directory / "a", "message digest");  // RFC 1321, A.5
  EXPECT_EQ(md5_of_file(directory / "a"), "f96b697d7cb7938d525a2f31aaf161d0");
  write_file(directory / "a", "abc");  // FIPS 180-4's examples
  EXPECT_EQ(sha256_of_file(directory / "a"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_THAT(error_of([&] { md5_of_file(directory / "none"); }), HasSubstr("cannot open '"));
}

}  // namespace
}  // namespace util_file_digest_test
