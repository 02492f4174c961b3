// Taking messages from a channel.
#pragma once

#include <zerocp.h>
#include <zerocp/loan.h>
#include <zerocp/result.h>

#include <memory>

namespace zerocp {

// One subscriber of a channel: it sees every message published after it joined, or, if it is lossy
// or the channel drops, learns how many it missed (Sample::missed_before). Move-only, one
// thread at a time. Leaves the channel in its destructor, which waits for the daemon's answer.
class Subscriber {
 public:
  Subscriber() = default;

  // The next message; in the order of sending for each publisher. Spins briefly, then sleeps.
  // kTimeout. kEndOfStream, kPublisherDied: every publisher that was there is gone and nothing is
  // left; said once, then the call waits for the next publisher. kDetached. kChannelDeleted:
  // nothing is left there either. kDamaged. kHeldLimit, at once: as many samples are held as the
  // channel (max_held_count) or the daemon (--max-chunks-per-session) allows; nothing is taken.
  // kUnavailable after fork. REQUIRES here and below: not closed, not moved from.
  Result<Sample> Wait(Deadline wait = std::nullopt) {
    return Take<Sample>(internal::TimeoutOf(wait));
  }
  // The same without waiting: kTimeout if there is none now.
  Result<Sample> TryTake() { return Take<Sample>(0); }
  // For poll, epoll or an event loop: readable when TryTake would return anything but kTimeout, and
  // until it has returned kTimeout, kEndOfStream or kPublisherDied; now and then for nothing. What
  // comes next is a new edge (EPOLLET). The loop: poll, TryTake until one of the three, poll again.
  // Publishers that join or leave make it readable, too: who takes no more takes it out of the
  // loop. The subscriber's: never read, write or close it. The first call starts a thread, which
  // ends with the subscriber. kLimit: no descriptor or no thread is to be had. kUnavailable after
  // fork.
  Result<int> fd() {
    Result<int> result;
    result.Set(zerocp_subscriber_fd(raw_.get(), &*result));
    return result;
  }
  // Leaves the channel. What waits in the queue is let go; samples stay.
  void Close() { raw_.reset(); }

 private:
  friend class Client;
  template <class>
  friend class TypedSubscriber;
  struct Closer {
    void operator()(zerocp_subscriber* subscriber) const { zerocp_subscriber_close(subscriber); }
  };

  template <class S>
  Result<S> Take(std::int64_t timeout_ns) {
    Result<S> result;
    result.Set(zerocp_subscriber_take(raw_.get(), timeout_ns, &result->raw_));
    return result;
  }

  std::unique_ptr<zerocp_subscriber, Closer> raw_;
};

}  // namespace zerocp
