// Packets of the attach protocol: received, checked, sent; nothing that came in is believed before.
//
// All calls return at once.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <string>
#include <vector>

#include "shm/attach_protocol.h"

namespace zerocp {

// What one look at a connection brought.
struct Packet {
  enum class Kind { kNothing, kEnd, kPacket } kind = Kind::kNothing;
  alignas(8) char bytes[sizeof(shm::AttachRequest)];
  size_t size = 0;  // of the packet as it was sent
  pid_t sender = 0;
  bool has_sender = false;       // the socket has SO_PASSCRED
  bool has_descriptors = false;  // they were closed
};
void Receive(int fd, Packet& packet);

// Copies a packet of `size` bytes to `request` and returns the first thing that is wrong with it,
// given that its sender is `attached` or not; empty if nothing is. Fields that the operation does
// not use must be zero, so that they can mean something one day. REQUIRES: `packet` has
// min(size, sizeof(AttachRequest)) bytes.
std::string CheckRequest(const void* packet, size_t size, bool attached,
                         shm::AttachRequest* request);

// What the client's memory layout has other than the daemon's, and what to do; empty if nothing.
std::string LayoutDifference(const shm::AttachRequest& request);

// All zero but for what every reply to `request` says.
void StartReply(const shm::AttachRequest& request, shm::AttachReply& reply);
// As much of `text` as fits. REQUIRES: the reply has none yet.
void SetMessage(shm::AttachReply& reply, const std::string& text);

// Sends a reply, with descriptors if there are any (at most 2). False, with errno, if it cannot go
// now.
bool SendReply(int fd, const shm::AttachReply& reply, const std::vector<int>& descriptors);

}  // namespace zerocp
