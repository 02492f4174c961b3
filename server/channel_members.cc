#include "server/channel_members.h"

#include <spdlog/spdlog.h>

#include <cstring>
#include <string_view>

#include "server/attach_packet.h"

namespace zerocp {
namespace {

using shm::AttachOp;
using shm::AttachReply;
using shm::AttachRequest;
using shm::Code;
using shm::Status;

// Codes that only the daemon knows become one that clients know; the text says the rest.
Code PublicCode(Code code) {
  return static_cast<int32_t>(code) < static_cast<int32_t>(Code::kAlreadyExists)
             ? code
             : Code::kUnavailable;
}

}  // namespace

void JoinChannel(Core& core, const Member& member, const AttachRequest& request,
                 AttachReply& reply) {
  const bool publisher = static_cast<AttachOp>(request.op) == AttachOp::kJoinPublisher;
  const std::string_view type(request.message_type,
                              strnlen(request.message_type, sizeof(request.message_type)));
  if (member.revoked) {
    reply.code = static_cast<int32_t>(Code::kDetached);
    return SetMessage(reply, "an operator ended this session: detach");
  }
  if (publisher && member.read_only) {
    reply.code = static_cast<int32_t>(Code::kDenied);
    return SetMessage(reply, "a read-only session cannot publish");
  }
  MutexLock lock(core.mutex);
  const shm::Result<shm::JoinInfo> joined =
      publisher ? core.registry.JoinAsPublisher(request.name, type, member.session)
                : core.registry.JoinAsSubscriber(request.name, type, member.session,
                                                 {request.queue_capacity, request.lossy != 0});
  if (!joined.ok()) {
    reply.code = static_cast<int32_t>(PublicCode(joined.code()));
    SetMessage(reply, joined.status().message());
    return;
  }
  shm::WriteJoinInfo(*joined, &reply);
  spdlog::info("joined: session id={} pid={} is {} of channel {}", member.session, member.pid,
               publisher ? "a publisher" : "a subscriber", request.name);
}

void LeaveChannel(Core& core, const Member& member, const AttachRequest& request,
                  AttachReply& reply) {
  const bool publisher = static_cast<AttachOp>(request.op) == AttachOp::kLeavePublisher;
  MutexLock lock(core.mutex);
  const Status status =
      publisher ? core.registry.LeavePublisher(request.channel, request.index, member.session)
                : core.registry.LeaveSubscriber(request.channel, request.index, member.session);
  if (!status.ok()) {
    reply.code = static_cast<int32_t>(status.code());
    SetMessage(reply, status.message());
    return;
  }
  uint64_t drained = 0;
  if (!publisher)
    drained = core.recovery.DrainSubscriber(request.channel, request.index).drained_count;
  spdlog::info("left: session id={} pid={} was {} of channel {}, {} messages let go",
               member.session, member.pid, publisher ? "a publisher" : "a subscriber",
               core.registry.channel(request.channel)->spec.name, drained);
}

}  // namespace zerocp
