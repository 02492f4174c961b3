// A process that is on some channels, and what it takes: for memory.h.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/bench/memory.h"
#include "tests/bench/other_end.h"
#include "tests/bench/port_spec.h"

namespace zerocp::bench {

// On each channel a subscriber, and a publisher whose message it has taken.
template <class N>
int RunAttached(const std::vector<std::string>& words) {
  const MemorySpec spec = MemorySpecOf(words);
  Turns& turns = TurnsOf(words.back());
  std::vector<
      std::pair<std::unique_ptr<typename N::Subscriber>, std::unique_ptr<typename N::Publisher>>>
      all;
  while (turns.RestUntilWanted()) {
    if (turns.count.load() == 0) continue;
    while (all.size() < static_cast<size_t>(spec.channels)) {
      const PortSpec port{.place = spec.place,
                          .channel = MemoryChannel(static_cast<int>(all.size()))};
      all.emplace_back(std::make_unique<typename N::Subscriber>(port),
                       std::make_unique<typename N::Publisher>(port));
      all.back().second->WaitForSubscriber();
      auto loan = all.back().second->NewLoan();
      all.back().second->Publish(loan);
      while (!all.back().first->Take()) {
      }
    }
    turns.wanted.store(Turns::kRest);
  }
  return 0;
}

// What a publisher that may have all chunks adds to the shared memory that this process maps.
template <class N>
int64_t SharedMemoryOf(const MemorySpec& spec) {
  const int64_t before = MappedSharedMemory();
  const typename N::Publisher publisher({.place = spec.place,
                                         .channel = MemoryChannel(0),
                                         .loans = static_cast<size_t>(spec.chunks)});
  return MappedSharedMemory() - before;
}

}  // namespace zerocp::bench
