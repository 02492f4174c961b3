#include "server/session_tokens.h"

#include <openssl/crypto.h>
#include <openssl/sha.h>
#include <sys/random.h>

#include <algorithm>
#include <iterator>
#include <stdexcept>
#include <utility>

#include "shm/mutant.h"

namespace zerocp {
namespace {

using shm::Code;
using shm::Result;
using shm::Status;

constexpr std::chrono::seconds kRemembered{60};  // how long the log can still name a dead token

std::array<uint8_t, 32> HashOf(const Token& token) {
  std::array<uint8_t, 32> hash;
  static_assert(SHA256_DIGEST_LENGTH == 32);
  SHA256(token.data(), token.size(), hash.data());
  return hash;
}

}  // namespace

void FillRandom(void* bytes, size_t size) {
  if (getrandom(bytes, size, 0) != static_cast<ssize_t>(size))
    throw std::runtime_error("getrandom failed");
}

size_t SessionTokens::WaitingCount() {
  const auto now = now_();
  entries_.remove_if([&](const Entry& entry) { return now >= entry.expire_time + kRemembered; });
  for (auto old = entries_.begin(); old != entries_.end() && entries_.size() > 2 * kMost;)
    old = Waits(*old) ? std::next(old) : entries_.erase(old);
  return static_cast<size_t>(std::count_if(entries_.begin(), entries_.end(),
                                           [&](const Entry& entry) { return Waits(entry); }));
}

Token SessionTokens::Add(PendingSession session) {
  Token token;
  FillRandom(token.data(), token.size());
  entries_.push_back({std::move(session), HashOf(token), now_() + kTokenTtl});
  return token;
}

// Every token is compared, whichever it is, so that time tells nothing.
Result<PendingSession> SessionTokens::Redeem(const Token& token, uid_t uid) {
  const auto hash = HashOf(token);
  Entry* found = nullptr;
  for (Entry& entry : entries_) {
    if (CRYPTO_memcmp(entry.token_hash.data(), hash.data(), hash.size()) == 0) found = &entry;
  }
  if (found == nullptr) return Status(Code::kDenied, "unknown token");
  const PendingSession& session = found->session;
  if (found->used && !Mutant(8)) {
    return Status(Code::kDenied, "the token of " + session.name + " was used already");
  }
  if (now_() >= found->expire_time) {
    return Status(Code::kDenied, "the token of " + session.name + " has expired");
  }
  if (session.peer_uid && *session.peer_uid != uid) {
    return Status(Code::kDenied, "the token of " + session.name + " is for uid " +
                                     std::to_string(*session.peer_uid));
  }
  found->used = true;
  return session;
}

bool SessionTokens::Revoke(const std::string& name) {
  for (Entry& entry : entries_) {
    if (entry.session.name != name || !Waits(entry)) continue;
    entry.used = true;
    return true;
  }
  return false;
}

std::vector<PendingSession> SessionTokens::Waiting() const {
  std::vector<PendingSession> waiting;
  for (const Entry& entry : entries_) {
    if (Waits(entry)) waiting.push_back(entry.session);
  }
  return waiting;
}

}  // namespace zerocp
