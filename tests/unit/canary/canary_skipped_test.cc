#include <gtest/gtest.h>

namespace {

TEST(Canary, ASkippedTestFailsItsEntry) { GTEST_SKIP() << "on purpose"; }

}  // namespace
