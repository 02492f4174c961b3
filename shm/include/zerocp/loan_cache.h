// The free chunks of one pool that one thread keeps for its next loans.
//
// What. A loan and its release by the same thread are two operations on this structure, short
// enough to be inlined in programs. Everything else about chunks is the library's (session.h),
// which makes these structures and fills and empties them. A program and the library may be of
// different versions: `version` comes first in every one, and who finds another than its own calls
// the library instead.
//
// Invariants. S1 to S4 of session.h. L1: only the thread that `thread` names changes the rest;
// while it names nobody, the thread that has the cache goes through the library, which then sees to
// what a loan or a release needs more. L2: a cache is of one pool and one session as long as it is
// there, and there as long as its session has loans. L3: its memory is never freed, only used
// again.
//
// Threads and processes. This process's private memory. Of what it points to, the cap and the
// records may be forged: neither is used as an index, a size or an address.
//
// Crash. It dies with the process; the records tell whose the chunks are.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace zerocp::internal {

// Tells apart the threads that live.
inline std::uintptr_t ThisThread() {
#if defined(__x86_64__)
  std::uintptr_t self;
  asm volatile("mov %%fs:0, %0" : "=r"(self));  // volatile: a coroutine may have moved
  return self;
#else
  return reinterpret_cast<std::uintptr_t>(__builtin_thread_pointer());
#endif
}

struct alignas(64) LoanCache {
  static constexpr std::uint32_t kVersion = 3;
  static constexpr std::uint32_t kDefaultCap = 32;             // chunks that are kept, at most
  static constexpr std::uint32_t kCapacity = kDefaultCap + 1;  // one more until the oldest go back
  static constexpr std::uint32_t kLoaned = 1;  // labels of a chunk: phase:8 | serial:24
  static constexpr std::uint32_t kCached = 2;
  static constexpr std::uint64_t kNextSerial = 1 << 8;
  // Each so many loans the library adds to the pool's statistics.
  static constexpr std::uint64_t kLoansPerReport = 1024;
  static constexpr std::uint64_t kReportMask = (kLoansPerReport - 1) * kNextSerial;
  static constexpr std::size_t kLabelOffset = 12;                     // in a record, after the word
  static constexpr std::uint64_t kRecalled = std::uint64_t{1} << 63;  // in a word
  static constexpr std::size_t kHeaderBytes = 128;  // of a chunk's header; the user's part is last
  static constexpr std::size_t kUserHeaderOffset = 64;

  std::uint32_t version = kVersion;
  std::uint32_t record_shift = 0;  // log2 of a record's bytes
  // That may use this without the library; 0: none. Relaxed: nobody else ever finds itself here,
  // and who takes the name away executes a barrier in every thread (client_core.h, Letting go).
  std::atomic<std::uintptr_t> thread{0};
  std::uint64_t chunk_size_bytes = 0;
  // balance:32 | count:32. `count` chunks are here; balance - count, modulo 2^32, is how many more
  // were loaned here than given back.
  std::atomic<std::uint64_t> counts{0};
  std::uint64_t label = kLoaned;  // of the last loan, with a serial of 56 bits
  std::byte* records = nullptr;
  const std::atomic<std::uint32_t>* cache_cap = nullptr;  // chunks that may be kept; the pool's
  std::byte* payload = nullptr;
  std::uint64_t stride_bytes = 0;
  std::byte* headers = nullptr;
  const void* pool = nullptr;
  // The last two lines are for who gave a chunk back while the library took `thread` away, which
  // then may wait for the last one. It is done with the session: these may be another's already.
  std::atomic<void*> owner{nullptr};
  std::atomic<void (*)(void* owner) noexcept> given_back{nullptr};
  std::uint64_t words[kCapacity] = {};  // of the chunks, without kRecalled
  std::uint32_t chunks[kCapacity] = {};

  // A chunk of at least `bytes`, out of this cache. False, and nothing is done but to a label, if
  // it takes the library to get one, or to know why there is none. From any thread.
  bool TryLoan(std::size_t bytes, std::uint32_t* chunk) {
    if (thread.load(std::memory_order_relaxed) != ThisThread() || bytes > chunk_size_bytes)
        [[unlikely]] {
      return false;
    }
    const std::uint64_t before = counts.load(std::memory_order_relaxed);
    const auto count = static_cast<std::uint32_t>(before);
    const std::uint64_t loaned = label + kNextSerial;
    if (count == 0 || (loaned & kReportMask) == 0) [[unlikely]]
      return false;
    const std::uint32_t taken = chunks[count - 1];
    const std::uint64_t remembered = words[count - 1];
    const Record record = RecordOf(taken);
    const std::atomic<std::uint64_t>& word = *record.word;
    if (word.load(std::memory_order_relaxed) != remembered) [[unlikely]]
      return false;
    // STEP loan.label  PAIR chunk.label
    record.label->store(static_cast<std::uint32_t>(loaned), std::memory_order_release);
    std::atomic_signal_fence(std::memory_order_seq_cst);  // S3 and S4: others execute the barrier
    // STEP loan.word
    if (word.load(std::memory_order_relaxed) != remembered) [[unlikely]]
      return false;  // it stays here, until the library knows whose it is
    counts.store(before - 1, std::memory_order_relaxed);
    label = loaned;
    *chunk = taken;
    return true;
  }

  // Gives an exclusive chunk of this pool back to this cache; false, and nothing is done, if it
  // takes the library. From any thread. REQUIRES: it is loaned, or was taken.
  bool TryRelease(std::uint32_t chunk) {
    const std::uintptr_t self = ThisThread();
    const std::uint64_t before = counts.load(std::memory_order_relaxed);
    const auto count = static_cast<std::uint32_t>(before);
    // STEP release.cap
    if (thread.load(std::memory_order_relaxed) != self || count >= kDefaultCap ||
        count >= cache_cap->load(std::memory_order_relaxed)) [[unlikely]] {
      return false;
    }
    const Record record = RecordOf(chunk);
    // Before the label: from then on it may become another's.
    words[count] = record.word->load(std::memory_order_relaxed) & ~kRecalled;
    // STEP release.label  PAIR chunk.label
    record.label->store(kCached, std::memory_order_release);
    chunks[count] = chunk;
    // Last: nobody may touch the segments once all is counted as given back.
    counts.store(before + 1, std::memory_order_release);  // PAIR session.released
    std::atomic_signal_fence(std::memory_order_seq_cst);
    if (thread.load(std::memory_order_relaxed) != self) [[unlikely]]
      given_back.load(std::memory_order_relaxed)(owner.load(std::memory_order_relaxed));
    return true;
  }

  std::byte* data(std::uint32_t chunk) const { return payload + chunk * stride_bytes; }
  std::byte* user_header(std::uint32_t chunk) const {
    return headers + chunk * kHeaderBytes + kUserHeaderOffset;
  }

 private:
  struct Record {
    std::atomic<std::uint64_t>* word;
    std::atomic<std::uint32_t>* label;
  };
  Record RecordOf(std::uint32_t chunk) const {
    std::byte* record = records + (std::uint64_t{chunk} << record_shift);
    return {reinterpret_cast<std::atomic<std::uint64_t>*>(record),
            reinterpret_cast<std::atomic<std::uint32_t>*>(record + kLabelOffset)};
  }
};

// What stands for no cache: nobody's.
inline constinit LoanCache kNoLoanCache{};

}  // namespace zerocp::internal
