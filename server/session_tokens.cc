#include "server/session_tokens.h"

#include <openssl/crypto.h>
#include <openssl/sha.h>
#include <sys/random.h>

#include <algorithm>
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

void SessionTokens::Expire() {
  const auto now = now_();
  while (!waiting_.empty() && now >= waiting_.front().expire_time)
    past_.splice(past_.end(), waiting_, waiting_.begin());
  while (!past_.empty() && (past_.size() > kMost || now >= past_.front().expire_time + kRemembered))
    past_.pop_front();
}

size_t SessionTokens::WaitingCount() {
  Expire();
  return waiting_.size();
}

Token SessionTokens::Add(PendingSession session) {
  Token token;
  FillRandom(token.data(), token.size());
  waiting_.push_back({std::move(session), HashOf(token), now_() + kTokenTtl});
  return token;
}

// Every token is compared, whichever it is, so that time tells nothing.
SessionTokens::Entries::iterator SessionTokens::Find(Entries& entries,
                                                     const std::array<uint8_t, 32>& token_hash) {
  auto found = entries.end();
  for (auto entry = entries.begin(); entry != entries.end(); ++entry) {
    if (CRYPTO_memcmp(entry->token_hash.data(), token_hash.data(), token_hash.size()) == 0)
      found = entry;
  }
  return found;
}

Result<PendingSession> SessionTokens::Redeem(const Token& token, uid_t uid) {
  Expire();
  const auto hash = HashOf(token);
  const auto past = Find(past_, hash);
  const auto waiting = Find(waiting_, hash);
  if (past != past_.end()) {
    if (past->used && Mutant(8)) return past->session;
    return Status(Code::kDenied, "the token of " + past->session.name +
                                     (past->used ? " was used already" : " has expired"));
  }
  if (waiting == waiting_.end()) return Status(Code::kDenied, "unknown token");
  const PendingSession& session = waiting->session;
  if (session.peer_uid && *session.peer_uid != uid) {
    return Status(Code::kDenied, "the token of " + session.name + " is for uid " +
                                     std::to_string(*session.peer_uid));
  }
  waiting->used = true;
  past_.splice(past_.end(), waiting_, waiting);
  return session;
}

bool SessionTokens::Revoke(const std::string& name) {
  Expire();
  const auto entry = std::find_if(waiting_.begin(), waiting_.end(),
                                  [&](const Entry& e) { return e.session.name == name; });
  if (entry == waiting_.end()) return false;
  entry->used = true;
  past_.splice(past_.end(), waiting_, entry);
  return true;
}

std::vector<PendingSession> SessionTokens::Waiting() {
  Expire();
  std::vector<PendingSession> waiting;
  for (const Entry& entry : waiting_) waiting.push_back(entry.session);
  return waiting;
}

}  // namespace zerocp
