// What a subscriber of torture_test knows of the streams it takes: none of its messages may come
// twice, out of order, or not at all.
#pragma once

#include <poll.h>
#include <zerocp/zerocp.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <string>
#include <utility>

#include "tests/kill/torture_marks.h"
#include "tests/kill/torture_page.h"

namespace zerocp::torture {

class Subscription {
 public:
  // REQUIRES: `joined` has joined kChannels[channel] just now. `lossy`: it loses the oldest
  // messages rather than make publishers wait.
  Subscription(Page& page, size_t channel, bool lossy, Subscriber joined)
      : subscriber(std::move(joined)),
        page_(page),
        channel_(channel),
        lossy_(lossy),
        publishers_at_join_(page.publisher_count.load()) {
    ForEachPublisher([&](uint64_t number, const PublisherEntry& entry) {
      if (number <= publishers_at_join_) streams_[number] = {entry.begun.load() + 1, 0};
    });
  }

  // Waits for a message by the descriptor, which has a thread of its own.
  void Poll(int milliseconds) {
    auto fd = subscriber.fd();
    if (!fd) Die("descriptor of a subscriber: " + fd.message());
    pollfd readable{*fd, POLLIN, 0};
    (void)poll(&readable, 1, milliseconds);
  }
  // Ends the process if this cannot be the next message.
  void Check(const Canary& canary, const Sample& sample) {
    Stream& stream = StreamOf(canary.publisher);
    const std::string message = "channel " + std::string(kChannels[channel_].name) + ", message " +
                                std::to_string(canary.sequence) + " of publisher " +
                                std::to_string(canary.publisher);
    if (canary.sequence != sample.sequence())
      Die(message + ": its sequence is " + std::to_string(sample.sequence()));
    if (canary.sequence <= stream.last)
      Die(message + ": came after " + std::to_string(stream.last));
    missed_ += sample.missed_before();
    if (stream.last != 0) gaps_ += canary.sequence - stream.last - 1;
    if (lossy_ && gaps_ > missed_) {
      Die(message + ": came after " + std::to_string(stream.last) + ", and of " +
          std::to_string(gaps_) + " that did not come " + std::to_string(missed_) +
          " are counted as missed");
    }
    // What was published before the join comes from the history, or not at all.
    const uint64_t due = std::max(stream.last + 1, stream.due);
    if (!lossy_ && canary.sequence > due)
      Die(message + ": message " + std::to_string(due) + " is lost");
    stream.last = canary.sequence;
  }

  // What should have been taken, and was not: a sentence; empty if it is nothing. REQUIRES: nobody
  // publishes, and a take found nothing.
  std::string Missing() {
    std::string missing;
    ForEachPublisher([&](uint64_t number, const PublisherEntry& entry) {
      const Stream& stream = StreamOf(number);
      const uint64_t sent = entry.completed.load();
      const uint64_t begun = entry.begun.load();
      if (entry.number.load() != number) return;
      if (sent >= stream.due && stream.last < sent) {
        missing = "channel " + std::string(kChannels[channel_].name) + ", publisher " +
                  std::to_string(number) + ": sent " + std::to_string(sent) + " messages, " +
                  std::to_string(stream.last) + " was the last to come, from " +
                  std::to_string(stream.due) + " on they are due";
      }
      if (stream.last > begun) {
        missing = "publisher " + std::to_string(number) + ": message " +
                  std::to_string(stream.last) + " came and was never sent";
      }
    });
    return missing;
  }

  Subscriber subscriber;

 private:
  struct Stream {
    uint64_t due;   // this message and those after it must come
    uint64_t last;  // that came
  };
  static constexpr uint64_t kNever = ~uint64_t{0};

  // One that came after the join owes everything, one that had gone before owes nothing.
  Stream& StreamOf(uint64_t number) {
    return streams_.try_emplace(number, number > publishers_at_join_ ? 1 : kNever, 0).first->second;
  }
  // The channel's publishers whose entries are there yet.
  template <class Visit>
  void ForEachPublisher(Visit visit) {
    for (const PublisherEntry& entry : page_.publishers) {
      const uint64_t number = entry.number.load();
      if (number != 0 && entry.channel.load() == channel_ && entry.number.load() == number)
        visit(number, entry);
    }
  }

  Page& page_;
  const size_t channel_;
  const bool lossy_;
  const uint64_t publishers_at_join_;
  std::map<uint64_t, Stream> streams_;  // by the publisher's number
  uint64_t missed_ = 0;                 // that the samples told of
  uint64_t gaps_ = 0;                   // numbers that were passed over
};

}  // namespace zerocp::torture
