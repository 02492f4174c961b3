#include "server/attach_policy.h"

#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <vector>

namespace zerocp {
namespace {

using shm::Code;
using shm::Status;

// All of the process that connected, as they were then; empty if the kernel does not say.
std::vector<gid_t> GroupsOf(int fd, gid_t primary) {
  std::vector<gid_t> groups(64);
  for (;;) {
    auto size = static_cast<socklen_t>(groups.size() * sizeof(gid_t));
    if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups.data(), &size) == 0) {
      groups.resize(size / sizeof(gid_t));
      break;
    }
    if (errno != ERANGE) return {primary};
    groups.resize(size / sizeof(gid_t));
  }
  groups.push_back(primary);
  return groups;
}

}  // namespace

bool AttachPolicy::Allows(int fd) const {
  if (limits_.users.empty() && limits_.groups.empty()) return true;
  ucred credentials{};
  socklen_t size = sizeof(credentials);
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &size) != 0) return false;
  if (limits_.users.count(credentials.uid) != 0) return true;
  const std::vector<gid_t> groups = GroupsOf(fd, credentials.gid);
  return std::any_of(groups.begin(), groups.end(),
                     [this](gid_t group) { return limits_.groups.count(group) != 0; });
}

Status AttachPolicy::Check(uid_t uid, bool allowed, size_t session_count,
                           TokenBucket::Clock::time_point now) {
  const std::string who = "uid " + std::to_string(uid);
  if (!allowed) {
    return Status(Code::kDenied, who +
                                     " may not attach: zerocpd --allow-user and --allow-group "
                                     "name who may");
  }
  const uint32_t most = limits_.max_sessions_per_user;
  if (most != 0 && session_count >= most) {
    return Status(Code::kLimit, who + " has its " + std::to_string(most) +
                                    " sessions (zerocpd --max-sessions-per-user): end one first");
  }
  return CheckRate(uid, now);
}

Status AttachPolicy::CheckRate(uid_t uid, TokenBucket::Clock::time_point now) {
  constexpr size_t kMostRemembered = 1024;
  const uint32_t rate = limits_.max_attaches_per_second;
  if (rate == 0) return Status();
  if (rates_.size() >= kMostRemembered)
    std::erase_if(rates_, [now](auto& entry) { return entry.second.IsFull(now); });
  if (rates_.try_emplace(uid, 2.0 * rate, rate).first->second.Take(now)) return Status();
  return Status(Code::kLimit, "uid " + std::to_string(uid) + " attaches more than " +
                                  std::to_string(rate) +
                                  " times a second (zerocpd --max-attach-rate): try again later");
}

}  // namespace zerocp
