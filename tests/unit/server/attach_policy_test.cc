#include "server/attach_policy.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string>

#include "shm/unique_fd.h"

namespace zerocp {
namespace {

using shm::Code;
using std::chrono::milliseconds;

const TokenBucket::Clock::time_point kNow{std::chrono::hours(1)};

bool Allows(const AttachLimits& limits) {
  int pair[2];
  EXPECT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
  const shm::UniqueFd one(pair[0]);
  const shm::UniqueFd other(pair[1]);
  return AttachPolicy(limits).Allows(pair[0]);
}

TEST(AttachPolicyTest, ListsNarrowWhomTheSocketLetsIn) {
  const uid_t stranger = getuid() + 1;
  const gid_t strangers = getgid() + 1;
  EXPECT_TRUE(Allows({}));
  EXPECT_TRUE(Allows({.users = {getuid()}}));
  EXPECT_TRUE(Allows({.users = {stranger}, .groups = {getgid()}}));
  EXPECT_FALSE(Allows({.users = {stranger}}));
  EXPECT_FALSE(Allows({.groups = {strangers}}));
  const auto status = AttachPolicy({}).Check(7, false, 0, kNow);
  EXPECT_EQ(status.code(), Code::kDenied);
  EXPECT_NE(status.message().find("uid 7 may not attach: zerocpd --allow-user"), std::string::npos);
}

TEST(AttachPolicyTest, AUserHasItsSessionsAndNoMore) {
  AttachPolicy policy({.max_sessions_per_user = 3});
  EXPECT_TRUE(policy.Check(7, true, 2, kNow).ok());
  const auto status = policy.Check(7, true, 3, kNow);
  EXPECT_EQ(status.code(), Code::kLimit);
  EXPECT_NE(status.message().find("uid 7 has its 3 sessions"), std::string::npos);
  EXPECT_TRUE(AttachPolicy({}).Check(7, true, 100'000, kNow).ok());
}

TEST(AttachPolicyTest, TheRateIsOfEachUser) {
  AttachPolicy policy({.max_attaches_per_second = 10});
  for (int i = 0; i < 20; ++i) EXPECT_TRUE(policy.Check(7, true, 0, kNow).ok()) << i;
  const auto status = policy.Check(7, true, 0, kNow);
  EXPECT_EQ(status.code(), Code::kLimit);
  EXPECT_NE(status.message().find("more than 10 times a second"), std::string::npos);
  EXPECT_TRUE(policy.Check(8, true, 0, kNow).ok());
  EXPECT_FALSE(policy.Check(7, true, 0, kNow + milliseconds(99)).ok());
  EXPECT_TRUE(policy.Check(7, true, 0, kNow + milliseconds(150)).ok());
  EXPECT_FALSE(policy.Check(7, true, 0, kNow + milliseconds(150)).ok());
  AttachPolicy unlimited({.max_attaches_per_second = 0});
  for (int i = 0; i < 100'000; ++i) ASSERT_TRUE(unlimited.Check(7, true, 0, kNow).ok());
}

}  // namespace
}  // namespace zerocp
