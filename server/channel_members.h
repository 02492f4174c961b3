// Joining and leaving channels, as clients ask for it on the attach socket.
//
// REQUIRES: the request was checked (CheckRequest). What is asked in vain is in the reply, with a
// code that clients know.
#pragma once

#include <sys/types.h>

#include <cstdint>

#include "server/core.h"
#include "shm/attach_protocol.h"

namespace zerocp {

// Who asks.
struct Member {
  uint16_t session = 0;
  pid_t pid = 0;
  bool read_only = false;
  bool revoked = false;
};

void JoinChannel(Core& core, const Member& member, const shm::AttachRequest& request,
                 shm::AttachReply& reply);
void LeaveChannel(Core& core, const Member& member, const shm::AttachRequest& request,
                  shm::AttachReply& reply);

}  // namespace zerocp
