// Codes, results and deadlines of the C++ interface.
#pragma once

#include <zerocp.h>

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <utility>

namespace zerocp {

// What happened, by what the caller should do. zerocp.h says more of each.
enum class Code : std::int32_t {
  kOk = ZEROCP_OK,
  kTimeout = ZEROCP_TIMEOUT,               // nothing came before the deadline: try again
  kEndOfStream = ZEROCP_END_OF_STREAM,     // the last publisher closed in order; nothing is left
  kPublisherDied = ZEROCP_PUBLISHER_DIED,  // the same, but a publisher died
  kDetached = ZEROCP_DETACHED,  // an operator detached the subscriber, or ended the session
  kChannelDeleted = ZEROCP_CHANNEL_DELETED,  // by an operator; what waited was taken before
  kInstanceLost = ZEROCP_INSTANCE_LOST,      // the daemon came back with other segments
  kExhausted = ZEROCP_EXHAUSTED,         // the pool is empty; message() names the largest holders
  kTooLarge = ZEROCP_TOO_LARGE,          // larger than the pool's chunks; message() has both sizes
  kHeldLimit = ZEROCP_HELD_LIMIT,        // as many loans or samples are held as may be: release one
  kHoldersFull = ZEROCP_HOLDERS_FULL,    // as many holders as the chunk's pool allows
  kNotFound = ZEROCP_NOT_FOUND,          // no such channel or pool
  kTypeMismatch = ZEROCP_TYPE_MISMATCH,  // the channel carries another message type
  kStale = ZEROCP_STALE,                 // the handle's chunk was released since
  kDenied = ZEROCP_DENIED,
  kInvalid = ZEROCP_INVALID,
  kUnavailable = ZEROCP_UNAVAILABLE,  // no daemon, or this is the child of a fork
  kVersionMismatch = ZEROCP_VERSION_MISMATCH,
  kDamaged = ZEROCP_DAMAGED,
  kLimit = ZEROCP_LIMIT,
};

// "TIMEOUT" for Code::kTimeout, and so on.
inline const char* Name(Code code) { return zerocp_code_name(static_cast<zerocp_code>(code)); }

// How long a call may wait: nullopt for ever, 0 not at all.
using Deadline = std::optional<std::chrono::nanoseconds>;

// A value, or the code and the sentence that explain its absence. Success and kTimeout cost no
// allocation. T is default-constructible; without success the value is T{}.
template <class T>
class [[nodiscard]] Result {
 public:
  explicit operator bool() const { return code_ == Code::kOk; }
  T& operator*() { return value_; }
  const T& operator*() const { return value_; }
  T* operator->() { return &value_; }
  const T* operator->() const { return &value_; }
  Code code() const { return code_; }
  // One sentence for people, with names and numbers; the code's name if memory is short.
  std::string message() const { return message_ != nullptr ? message_.get() : Name(code_); }

 private:
  friend class Client;
  friend class Loan;
  friend class Publisher;
  friend class Subscriber;
  friend class Sample;
  template <class>
  friend class Result;
  template <class>
  friend class TypedPublisher;
  template <class>
  friend class TypedSubscriber;

  Result() = default;
  // The outcome of a call that filled in `raw`. REQUIRES: as Set. Inlined: see Publisher::NewLoan.
  template <class Raw>
  [[gnu::always_inline]] explicit Result(const Raw& raw, zerocp_code code = ZEROCP_OK)
      : value_(raw) {
    Set(code);
  }
  // Ends a call into the library that was to fill in value_. REQUIRES: it returned `code` just now.
  [[gnu::always_inline]] void Set(zerocp_code code) {
    code_ = static_cast<Code>(code);
    if (code != ZEROCP_OK && code != ZEROCP_TIMEOUT) [[unlikely]]
      message_.reset(LastError());
  }
  void Set(Code code, const std::string& message) {
    code_ = code;
    message_.reset(strdup(message.c_str()));
  }
  // nullptr: memory is short.
  [[gnu::noinline, gnu::cold]] static char* LastError() noexcept {
    return strdup(zerocp_last_error());
  }

  // The same outcome, with the value as a U. REQUIRES: a failure, if no T becomes a U.
  template <class U>
  Result<U> As() && {
    Result<U> result;
    result.code_ = code_;
    result.message_.reset(message_.release());
    if constexpr (requires { U(std::move(value_)); }) {
      if (*this) result.value_ = U(std::move(value_));
    }
    return result;
  }

  struct Free {
    // Clang's analyzer takes what a second assignment lets go for what the first one did.
    void operator()(char* text) const { std::free(text); }  // NOLINT(clang-analyzer-unix.Malloc)
  };

  T value_{};
  Code code_ = Code::kOk;
  std::unique_ptr<char, Free> message_;
};

namespace internal {

inline std::int64_t TimeoutOf(Deadline wait) {
  if (!wait) return ZEROCP_FOREVER;
  return wait->count() > 0 ? std::int64_t{wait->count()} : 0;
}

}  // namespace internal
}  // namespace zerocp
