// Sessions that were created over gRPC and wait for their process, which brings a token.
//
// A token is 32 random bytes, single use, kTokenTtl; only its SHA-256 is kept, and compared in
// constant time. One thread at a time.
#pragma once

#include <sys/types.h>

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <optional>
#include <string>
#include <vector>

#include "shm/status.h"

namespace zerocp {

inline constexpr std::chrono::seconds kTokenTtl{10};
using Token = std::array<uint8_t, 32>;

// REQUIRES: size <= 256, where the kernel always answers in full.
void FillRandom(void* bytes, size_t size);

struct PendingSession {
  std::string name;  // resource name
  std::string client_name;
  std::optional<uid_t> peer_uid;  // only that user's process may redeem it
  bool read_only = false;
  std::chrono::system_clock::time_point create_time;
};

class SessionTokens {
 public:
  using Now = std::function<std::chrono::steady_clock::time_point()>;
  static constexpr size_t kMost = 1024;

  explicit SessionTokens(Now now) : now_(std::move(now)) {}

  size_t WaitingCount();
  Token Add(PendingSession session);
  // kDenied: the message is for the log, never for the peer.
  shm::Result<PendingSession> Redeem(const Token& token, uid_t uid);
  // True if a session of that name waited: its token is good for nothing any more.
  bool Revoke(const std::string& name);
  std::vector<PendingSession> Waiting();

 private:
  struct Entry {
    PendingSession session;
    std::array<uint8_t, 32> token_hash;
    std::chrono::steady_clock::time_point expire_time;
    bool used = false;
  };
  using Entries = std::list<Entry>;
  static Entries::iterator Find(Entries& entries, const std::array<uint8_t, 32>& token_hash);
  void Expire();

  const Now now_;
  Entries waiting_;  // in the order in which they expire
  Entries past_;     // used or expired, at most kMost for a minute: the log can tell them apart
};

}  // namespace zerocp
