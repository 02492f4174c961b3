// Status and Result: how everything below the services reports failure.
//
// The codes are the public ones of the C ABI (client/include/zerocp.h asserts the values); those
// from 64 on are only ever seen by the daemon. Codes are chosen by what the caller should do. No
// exception leaves shm, and nothing here drags a library into a client process.
#pragma once

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <utility>

namespace zerocp::shm {

enum class Code : int32_t {
  kOk = 0,
  kTimeout = 1,
  kEndOfStream = 2,
  kPublisherDied = 3,
  kDetached = 4,
  kInstanceLost = 5,  // the daemon does not know the session: it came back with other segments
  kExhausted = 6,
  kTooLarge = 7,
  kHeldLimit = 8,  // as many chunks are held at once as may be: release one
  kHoldersFull = 9,
  kNotFound = 10,
  kTypeMismatch = 11,
  kStale = 12,
  kDenied = 13,
  kInvalid = 14,
  kUnavailable = 15,
  kVersionMismatch = 16,  // another shared-memory layout: both versions are in the message
  kDamaged = 17,          // a word in shared memory is impossible; the object is given up
  kLimit = 18,            // a table is full: publishers, subscribers, sessions
  kChannelDeleted = 19,
  // Daemon only.
  kAlreadyExists = 64,
  kNoMemory = 65,  // memory was refused; needed and available bytes are in the message
  kInternal = 66,
};

class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(Code code, std::string message) : code_(code), message_(std::move(message)) {}
  // `what` happened, with the text of the errno value `error`.
  static Status FromErrno(Code code, const std::string& what, int error) {
    return Status(code, what + ": " + std::strerror(error));
  }
  bool ok() const { return code_ == Code::kOk; }
  Code code() const { return code_; }
  const std::string& message() const { return message_; }

 private:
  Code code_ = Code::kOk;
  std::string message_;
};

// A value or the Status that explains its absence.
template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::move(value)) {}          // NOLINT(google-explicit-constructor)
  Result(Status status) : status_(std::move(status)) {}  // NOLINT(google-explicit-constructor)
  bool ok() const { return value_.has_value(); }
  const Status& status() const { return status_; }
  Code code() const { return status_.code(); }
  // REQUIRES: ok().
  T& operator*() { return *value_; }
  const T& operator*() const { return *value_; }
  T* operator->() { return &*value_; }
  const T* operator->() const { return &*value_; }

 private:
  std::optional<T> value_;
  Status status_;
};

}  // namespace zerocp::shm
