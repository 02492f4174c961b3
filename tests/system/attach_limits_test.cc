// What a client is told that may not attach, or not once more.
#include <gtest/gtest.h>
#include <unistd.h>

#include <string>

#include "tests/system/daemon_process.h"
#include "zerocp/zerocp.h"

namespace zerocp {
namespace {

bool Contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST(AttachLimitsTest, AUserWithAllItsSessionsIsToldItsLimitAndWhatToDo) {
  const testing::DaemonProcess daemon({"--pool", "p=4096x16", "--max-sessions-per-user", "1"});
  auto first = Client::Connect({.runtime_dir = daemon.runtime_dir()});
  ASSERT_TRUE(first) << first.message();
  const auto second = Client::Connect({.runtime_dir = daemon.runtime_dir()});
  ASSERT_FALSE(second);
  EXPECT_EQ(second.code(), Code::kLimit);
  EXPECT_TRUE(Contains(
      second.message(),
      "uid " + std::to_string(getuid()) + " has its 1 sessions (zerocpd --max-sessions-per-user)"))
      << second.message();
}

TEST(AttachLimitsTest, AUserOutsideTheListIsToldOfIt) {
  const testing::DaemonProcess daemon(
      {"--pool", "p=4096x16", "--allow-user", std::to_string(getuid() + 1)});
  const auto refused = Client::Connect({.runtime_dir = daemon.runtime_dir()});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.code(), Code::kDenied);
  EXPECT_TRUE(Contains(refused.message(), "may not attach: zerocpd --allow-user"))
      << refused.message();
}

TEST(AttachLimitsTest, AMemberOfAGroupOnTheListAttaches) {
  const testing::DaemonProcess daemon(
      {"--pool", "p=4096x16", "--allow-group", std::to_string(getgid())});
  const auto client = Client::Connect({.runtime_dir = daemon.runtime_dir()});
  EXPECT_TRUE(client) << client.message();
}

}  // namespace
}  // namespace zerocp
