// The floor of a hand-over between two processes: two cache lines, one written by each.
#pragma once

#include <atomic>
#include <cstdint>

namespace zerocp::bench {

// What the second process of a ping-pong does; in memory that both map.
enum class Role : uint32_t { kIdle, kFloor, kZerocp, kExit };

struct Shared {
  alignas(64) std::atomic<uint32_t> role;
  alignas(64) std::atomic<uint32_t> ready;  // the peer's role, once it plays it
  alignas(64) std::atomic<uint64_t> ping;
  alignas(64) std::atomic<uint64_t> pong;
};

// Maps the memory behind `fd`; exits with a message if it cannot.
Shared* MapShared(int fd);
// A descriptor of new zeroed memory, inherited by children.
int CreateShared();

// One round trip: writes `turn` and waits for the peer to write it too.
inline void FloorRoundTrip(Shared& shared, uint64_t turn) {
  shared.ping.store(turn, std::memory_order_release);
  while (shared.pong.load(std::memory_order_acquire) != turn) __builtin_ia32_pause();
}
// The peer's side, while the role is kFloor.
void FloorEcho(Shared& shared);

// Keeps this thread on one processor; does nothing if that is not allowed.
void PinTo(int processor);
// Lets this thread, and what it starts, run anywhere again.
void Unpin();

}  // namespace zerocp::bench
