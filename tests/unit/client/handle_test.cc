// The text form of handles.
#include "zerocp/handle.h"

#include <gtest/gtest.h>

#include <string>

namespace zerocp {
namespace {

TEST(Handle, TextHasAPrefixAndAllBitsInHexadecimal) {
  EXPECT_EQ((Handle{0x0123456789abcdef, 0xfedcba9876543210}.ToString()),
            "zc1-0123456789abcdeffedcba9876543210");
  EXPECT_EQ(Handle{}.ToString(), "zc1-" + std::string(32, '0'));
}

TEST(Handle, ParsesWhatItWrote) {
  for (const Handle& handle : {Handle{}, Handle{1, 2}, Handle{~uint64_t{0}, ~uint64_t{0}},
                               Handle{uint64_t{1} << 63, 0x8000}}) {
    EXPECT_EQ(Handle::Parse(handle.ToString()), handle) << handle.ToString();
  }
}

TEST(Handle, RefusesEverythingElse) {
  const std::string good = Handle{1, 2}.ToString();
  for (const std::string& text :
       {std::string(), std::string("zc1-"), good.substr(0, good.size() - 1), good + "0", " " + good,
        "zc2-" + good.substr(4), "ZC1-" + good.substr(4), good.substr(0, good.size() - 1) + "g",
        good.substr(0, good.size() - 1) + "A",
        good.substr(0, good.size() - 1) + std::string(1, '\0')}) {
    EXPECT_EQ(Handle::Parse(text), std::nullopt) << text;
  }
}

}  // namespace
}  // namespace zerocp
