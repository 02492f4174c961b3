// Who may attach, and how often and how many times one user may.
//
// What the modes of the sockets let in, narrowed by lists of users and groups = {}; then limits per
// user, so that one who runs wild, or wants to, leaves room for the others.
//
// Threads. One at a time.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <map>
#include <set>

#include "server/token_bucket.h"
#include "shm/status.h"

namespace zerocp {

struct AttachLimits {
  // Whoever is in either may; both empty: whom the sockets' modes let in. The daemon's user and
  // root are not excepted.
  std::set<uid_t> users = {};
  std::set<gid_t> groups = {};
  uint32_t max_sessions_per_user = 0;  // 0: not limited
  uint32_t max_attaches_per_second =
      5000;  // of one user, and twice as many at once; 0: not limited
  uint32_t max_connections_per_user = 128;  // without a session; beyond it the oldest is closed
};

class AttachPolicy {
 public:
  explicit AttachPolicy(AttachLimits limits) : limits_(std::move(limits)) {}

  const AttachLimits& limits() const { return limits_; }
  // Whether the peer of a connected Unix socket is on the lists.
  bool Allows(int fd) const;
  // Once per attach. kDenied: not `allowed`; kLimit: which limit, and what to do.
  shm::Status Check(uid_t uid, bool allowed, size_t session_count,
                    TokenBucket::Clock::time_point now);

 private:
  shm::Status CheckRate(uid_t uid, TokenBucket::Clock::time_point now);

  const AttachLimits limits_;
  std::map<uid_t, TokenBucket> rates_;  // of who attached of late
};

}  // namespace zerocp
