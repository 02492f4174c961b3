// The rights to one chunk: a Loan may write it, a Sample may read it.
//
// Both are move-only, give the chunk back in their destructor, and keep its memory mapped however
// long they outlive their Client, Publisher or Subscriber. Default-constructed and moved-from ones
// are empty: data() has no bytes. Each belongs to one thread at a time.
#pragma once

#include <zerocp.h>
#include <zerocp/handle.h>
#include <zerocp/loan_cache.h>
#include <zerocp/result.h>

#include <cassert>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
#include <utility>

namespace zerocp {
namespace internal {

template <class T>
bool Holds(const void* data, std::size_t size) {
  static_assert(std::is_trivially_copyable_v<T>, "other processes see only the bytes of a message");
  return size == sizeof(T) && reinterpret_cast<std::uintptr_t>(data) % alignof(T) == 0;
}

// The loan of `chunk`, which came out of `cache`.
inline zerocp_loan LoanOf(LoanCache& cache, std::uint32_t chunk, std::size_t bytes) {
  constexpr std::uint64_t kExclusive = std::uint64_t{0xffff} << 32;  // held by no slot
  return {cache.data(chunk),
          bytes,
          bytes,
          cache.user_header(chunk),
          {cache.owner.load(std::memory_order_relaxed), const_cast<void*>(cache.pool), &cache},
          chunk | kExclusive};
}

// The cache of a loan or a sample, if it is one that this header knows.
template <class Right>
LoanCache* CacheOf(const Right& right) {
  auto* cache = static_cast<LoanCache*>(right.opaque[2]);
  return cache != nullptr && cache->version == LoanCache::kVersion ? cache : &kNoLoanCache;
}

}  // namespace internal

// The right to read a chunk. Others may read the same bytes at the same time.
class Sample {
 public:
  Sample() = default;
  Sample(Sample&& other) noexcept : raw_(std::exchange(other.raw_, {})) {}
  Sample& operator=(Sample&& other) noexcept {
    if (this != &other) {
      Release();
      raw_ = std::exchange(other.raw_, {});
    }
    return *this;
  }
  ~Sample() { Release(); }

  // Exactly the bytes that were published.
  std::span<const std::byte> data() const {
    return {static_cast<const std::byte*>(raw_.data), raw_.size};
  }
  // The publisher's own bytes: shape, time stamp, trace id. REQUIRES: not empty.
  std::span<const std::byte, ZEROCP_USER_HEADER_BYTES> header() const {
    return std::span<const std::byte, ZEROCP_USER_HEADER_BYTES>(
        static_cast<const std::byte*>(raw_.user_header), ZEROCP_USER_HEADER_BYTES);
  }
  // Number of the message, counted per publisher from 1; 0 if it did not come over a channel.
  std::uint64_t sequence() const { return raw_.sequence; }
  // Messages that the subscriber lost between the sample it took before and this one.
  std::uint64_t missed_before() const { return raw_.missed_before; }
  // The bytes as a T; nullptr unless they are sizeof(T) and aligned for it.
  template <class T>
  const T* as() const {
    return internal::Holds<T>(raw_.data, raw_.size) ? static_cast<const T*>(raw_.data) : nullptr;
  }
  // A name for the chunk, by which any process of the instance can open it for as long as somebody
  // holds it. kUnavailable after fork; kInvalid if empty.
  Result<Handle> handle() {
    Result<Handle> result;
    zerocp_handle handle{};
    result.Set(zerocp_sample_handle(&raw_, &handle));
    *result = {handle.instance, handle.chunk};
    return result;
  }
  explicit operator bool() const { return raw_.opaque[0] != nullptr; }

 private:
  friend class Client;
  friend class Loan;
  friend class Subscriber;

  void Release() {
    if (raw_.opaque[0] == nullptr) return;
    constexpr std::uint64_t kUncounted = 0xffff;  // by no slot, and by no limit of the channel
    if (raw_.opaque_chunk >> 32 != kUncounted ||
        !internal::CacheOf(raw_)->TryRelease(static_cast<std::uint32_t>(raw_.opaque_chunk)))
        [[unlikely]] {
      zerocp_sample_release(&raw_);
    }
  }

  zerocp_sample raw_{};
};

// The right to write a chunk. Its bytes are not cleared.
class Loan {
 public:
  Loan() = default;
  Loan(Loan&& other) noexcept : raw_(std::exchange(other.raw_, {})) {}
  Loan& operator=(Loan&& other) noexcept {
    if (this != &other) {
      Release();
      raw_ = std::exchange(other.raw_, {});
    }
    return *this;
  }
  ~Loan() { Release(); }

  // All bytes that were asked for.
  std::span<std::byte> data() { return {static_cast<std::byte*>(raw_.data), raw_.capacity}; }
  // The caller's own bytes, which travel with the message. REQUIRES: not empty.
  std::span<std::byte, ZEROCP_USER_HEADER_BYTES> header() {
    return std::span<std::byte, ZEROCP_USER_HEADER_BYTES>(static_cast<std::byte*>(raw_.user_header),
                                                          ZEROCP_USER_HEADER_BYTES);
  }
  // How many of the bytes are the message: all of them unless set_size() says fewer.
  std::size_t size() const { return raw_.size; }
  // REQUIRES: bytes <= data().size(). Otherwise publishing fails with kInvalid.
  void set_size(std::size_t bytes) {
    assert(bytes <= raw_.capacity);
    raw_.size = bytes;
  }
  // The bytes as a T; nullptr unless sizeof(T) were asked for and they are aligned for it.
  template <class T>
  T* as() {
    return internal::Holds<T>(raw_.data, raw_.capacity) ? static_cast<T*>(raw_.data) : nullptr;
  }
  // Gives the right to write up and keeps the right to read. kInvalid, kUnavailable: the loan
  // stays.
  Result<Sample> Share() && {
    Result<Sample> result;
    result.Set(zerocp_loan_share(&raw_, &result->raw_));
    return result;
  }
  explicit operator bool() const { return raw_.opaque[0] != nullptr; }

 private:
  friend class Client;
  friend class Publisher;
  friend class Result<Loan>;

  [[gnu::always_inline]] explicit Loan(const zerocp_loan& raw) : raw_(raw) {}
  void Release() {
    if (raw_.opaque[0] == nullptr) return;
    auto* cache = static_cast<internal::LoanCache*>(raw_.opaque[2]);
    if (!cache->TryRelease(static_cast<std::uint32_t>(raw_.opaque_chunk))) [[unlikely]]
      ReleaseSlow(raw_.opaque[0], raw_.opaque[1], raw_.opaque_chunk);
  }
  // By its parts, so that a loan that is not passed on can stay in registers.
  [[gnu::noinline, gnu::cold]] static void ReleaseSlow(void* core, void* pool,
                                                       std::uint64_t chunk) noexcept {
    zerocp_loan raw{nullptr, 0, 0, nullptr, {core, pool, nullptr}, chunk};
    zerocp_loan_release(&raw);
  }

  // opaque[2] is a cache of this header's version.
  zerocp_loan raw_{};
};

}  // namespace zerocp
