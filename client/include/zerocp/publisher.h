// Sending messages into a channel.
#pragma once

#include <zerocp.h>
#include <zerocp/loan.h>
#include <zerocp/result.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>

namespace zerocp {

struct Published {
  int delivered = 0;  // subscribers that will see the message
  int dropped = 0;    // older messages that lossy subscribers lost to make room for it
};

// One publisher of a channel. Move-only, one thread at a time. Leaves the channel in its
// destructor, which waits for the daemon's answer.
class Publisher {
 public:
  Publisher() = default;

  // A chunk of the channel's pool. REQUIRES here and below: not closed, not moved from.
  // kExhausted: none came free in time; a pool that grows by itself (auto_grow) is waited for up to
  // 100 ms, whatever `wait` is. kTooLarge. kHeldLimit. kUnavailable after fork.
  // Always inlined, as is all that gets its result's address, however cold: so a loan that is not
  // passed on stays in registers.
  [[gnu::always_inline]] Result<Loan> NewLoan(std::size_t bytes,
                                              Deadline wait = std::chrono::nanoseconds{0}) {
    internal::LoanCache& cache = *cache_;
    std::uint32_t chunk;
    if (cache.TryLoan(bytes, &chunk)) [[likely]]
      return Result<Loan>(internal::LoanOf(cache, chunk, bytes));
    zerocp_loan raw{};  // so that nobody but the caller has the address of the loan
    const zerocp_code code = NewLoanSlow(bytes, internal::TimeoutOf(wait), &raw);
    return Result<Loan>(raw, code);
  }
  // Sends the loan to every subscriber; waits while one of them has a full queue, but for lossy
  // ones and on a channel that drops, which lose their oldest message. On success `loan` is empty.
  // Otherwise it stays as it was and nobody got the message: a retry repeats nothing. kTimeout,
  // kChannelDeleted, kDetached, kInvalid, kUnavailable.
  Result<Published> Publish(Loan& loan, Deadline wait = std::nullopt) {
    Result<Published> result;
    zerocp_published published{};
    result.Set(
        zerocp_publisher_publish(raw_.get(), &loan.raw_, internal::TimeoutOf(wait), &published));
    result->delivered = published.delivered;
    result->dropped = published.dropped;
    return result;
  }
  // Waits until the channel has at least `count` subscribers; the value is how many it has, also on
  // kTimeout. kChannelDeleted, kDetached, kUnavailable.
  Result<int> WaitForSubscribers(int count, Deadline wait = std::nullopt) {
    Result<int> result;
    result.Set(zerocp_publisher_wait(raw_.get(), count, internal::TimeoutOf(wait), &*result));
    return result;
  }
  // Largest message the channel carries.
  std::size_t max_bytes() const { return zerocp_publisher_max_bytes(raw_.get()); }
  // Leaves the channel. What was sent stays deliverable, then its subscribers see kEndOfStream.
  void Close() {
    cache_ = &internal::kNoLoanCache;
    raw_.reset();
  }

 private:
  friend class Client;
  struct Closer {
    void operator()(zerocp_publisher* publisher) const { zerocp_publisher_close(publisher); }
  };

  [[gnu::noinline, gnu::cold]] zerocp_code NewLoanSlow(std::size_t bytes, std::int64_t timeout_ns,
                                                       zerocp_loan* loan) noexcept {
    const zerocp_code code = zerocp_publisher_loan(raw_.get(), bytes, timeout_ns, loan);
    if (code == ZEROCP_OK) loan->opaque[2] = cache_ = internal::CacheOf(*loan);
    return code;
  }

  std::unique_ptr<zerocp_publisher, Closer> raw_;
  internal::LoanCache* cache_ = &internal::kNoLoanCache;  // of the thread that loaned last
};

}  // namespace zerocp
