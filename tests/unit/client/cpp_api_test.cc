// What of the C++ interface needs no daemon.
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>
#include <type_traits>
#include <utility>

#include "zerocp/zerocp.h"

namespace zerocp {
namespace {

template <class T>
constexpr bool kMoveOnly =
    std::is_nothrow_move_constructible_v<T>&& std::is_nothrow_move_assignable_v<T>&&
        std::is_default_constructible_v<T> &&
    !std::is_copy_constructible_v<T> && !std::is_copy_assignable_v<T>;
static_assert(kMoveOnly<Loan> && kMoveOnly<Sample> && kMoveOnly<Publisher> &&
              kMoveOnly<Subscriber> && kMoveOnly<Client>);
static_assert(!std::is_convertible_v<Result<Loan>, bool>);

TEST(CppApi, EmptyLoanAndSampleHaveNoBytes) {
  Loan loan;
  Sample sample;
  EXPECT_FALSE(loan);
  EXPECT_FALSE(sample);
  EXPECT_TRUE(loan.data().empty());
  EXPECT_TRUE(sample.data().empty());
  EXPECT_EQ(sample.as<int>(), nullptr);
  Loan other = std::move(loan);
  EXPECT_FALSE(other);
}

TEST(CppApi, EmptyLoanCannotBeShared) {
  auto sample = Loan().Share();
  EXPECT_EQ(sample.code(), Code::kInvalid);
  EXPECT_NE(sample.message().find("not a loan"), std::string::npos) << sample.message();
  EXPECT_EQ(Sample().handle().code(), Code::kInvalid);
}

TEST(CppApi, EveryCodeHasAName) {
  for (int code = 0; code <= 19; ++code) EXPECT_STRNE(zerocp_code_name(code), "UNKNOWN") << code;
  EXPECT_STREQ(zerocp_code_name(20), "UNKNOWN");
  EXPECT_STREQ(zerocp_code_name(-1), "UNKNOWN");
  EXPECT_STREQ(Name(Code::kTimeout), "TIMEOUT");
}

TEST(CppApi, MissingDaemonIsUnavailableAndTheMessageListsThePaths) {
  auto client = Client::Connect({.runtime_dir = "/tmp/zerocp-no-such-directory"});
  EXPECT_FALSE(client);
  EXPECT_EQ(client.code(), Code::kUnavailable);
  EXPECT_NE(client.message().find("/tmp/zerocp-no-such-directory/attach.sock does not exist"),
            std::string::npos)
      << client.message();
  EXPECT_NE(client.message().find("zerocpd"), std::string::npos) << client.message();
}

TEST(CppApi, RuntimeDirectoryComesFromTheEnvironment) {
  ASSERT_EQ(setenv("ZEROCP_RUNTIME_DIR", "/tmp/zerocp-also-none", 1), 0);
  auto client = Client::Connect();
  unsetenv("ZEROCP_RUNTIME_DIR");
  EXPECT_EQ(client.code(), Code::kUnavailable);
  EXPECT_NE(client.message().find("/tmp/zerocp-also-none/attach.sock"), std::string::npos)
      << client.message();
}

TEST(CppApi, TokenNeedsItsSocket) {
  const std::uint8_t token[ZEROCP_TOKEN_BYTES] = {};
  auto client = Client::Attach(token, "/tmp/zerocp-no-such-socket");
  EXPECT_EQ(client.code(), Code::kUnavailable);
  EXPECT_NE(client.message().find("/tmp/zerocp-no-such-socket does not exist"), std::string::npos)
      << client.message();
}

}  // namespace
}  // namespace zerocp
