// Keeps the daemon alive when a client cuts a segment short.
//
// What. A client may truncate the files it was given; touching a page behind their end raises
// SIGBUS. The handler puts an empty private page there, sets `damaged` and lets the access go on; a
// SIGBUS anywhere else ends the process as without the guard. What is read from such a page is
// zeros, which the callers check like all that clients can write.
//
// Threads. One guard per process; made before the threads that touch the ranges, ended after them.
#pragma once

#include <cstddef>
#include <span>

namespace zerocp {

class SigbusGuard {
 public:
  // Guards the two mappings of an instance.
  SigbusGuard(std::span<std::byte> management, std::span<std::byte> chunk);
  ~SigbusGuard();
  SigbusGuard(const SigbusGuard&) = delete;
  SigbusGuard& operator=(const SigbusGuard&) = delete;

  // True once a guarded page was gone: what the segments hold can no longer be relied on.
  static bool damaged();
};

}  // namespace zerocp
