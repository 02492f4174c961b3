#include "server/attach_packet.h"

#include <spdlog/fmt/fmt.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <string_view>

#include "server/session_manager.h"
#include "shm/unique_fd.h"

namespace zerocp {
namespace {

using shm::AttachOp;
using shm::AttachReply;
using shm::AttachRequest;

template <class T, size_t N>
bool IsZero(const T (&values)[N]) {
  return std::all_of(values, values + N, [](T value) { return value == 0; });
}

// A text that ends in the field and has nothing but zeros behind its end. `full`: the end may be
// missing.
template <size_t N>
bool IsPadded(const char (&text)[N], bool full) {
  const char* end = std::find(text, text + N, '\0');
  return (full || end != text + N) && std::all_of(end, text + N, [](char c) { return c == '\0'; });
}

std::string CheckAttach(const AttachRequest& r) {
  if (r.has_token > 1) return "has_token is " + std::to_string(r.has_token) + ", not 0 or 1";
  if (r.has_token == 0 && !IsZero(r.token)) return "a token without has_token";
  if (r.read_only > 1) return "read_only is " + std::to_string(r.read_only) + ", not 0 or 1";
  if (!IsZero(r.message_type) || r.channel != 0 || r.index != 0) return "channel fields in kAttach";
  if (!IsPadded(r.name, /*full=*/false))
    return "the name does not end, or has something behind its end";
  if (!IsValidLabel(std::string_view(r.name))) return "the name is not printable ASCII";
  return "";
}

std::string CheckReconnect(const AttachRequest& r) {
  if (r.has_token != 0 || !IsZero(r.token) || r.read_only != 0) return "fields of kAttach";
  if (!IsZero(r.name) || !IsZero(r.message_type)) return "names in a reconnect";
  if (r.channel != 0 || r.index != 0) return "indices in a reconnect";
  return "";
}

std::string CheckJoin(const AttachRequest& r) {
  if (r.lossy > 1) return "lossy is " + std::to_string(r.lossy) + ", not 0 or 1";
  if (!IsPadded(r.name, /*full=*/false))
    return "the name does not end, or has something behind its end";
  if (!IsPadded(r.message_type, /*full=*/true))
    return "the message type has something behind its end";
  if (r.channel != 0 || r.index != 0) return "indices in a join";
  return "";
}

}  // namespace

void Receive(int fd, Packet& packet) {
  iovec part{packet.bytes, sizeof(packet.bytes)};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(ucred))];
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  ssize_t got = 0;
  do {
    got = recvmsg(fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC | MSG_TRUNC);
  } while (got < 0 && errno == EINTR);
  if (got < 0) {
    const bool later = errno == EAGAIN;
    packet.kind = later ? Packet::Kind::kNothing : Packet::Kind::kEnd;
    return;
  }
  for (cmsghdr* c = CMSG_FIRSTHDR(&message); c != nullptr; c = CMSG_NXTHDR(&message, c)) {
    if (c->cmsg_level != SOL_SOCKET) continue;
    if (c->cmsg_type == SCM_CREDENTIALS) {
      ucred sender{};
      std::memcpy(&sender, CMSG_DATA(c), sizeof(sender));
      packet.sender = sender.pid;
      packet.has_sender = true;
    } else if (c->cmsg_type == SCM_RIGHTS) {
      packet.has_descriptors = true;
      for (size_t at = 0; CMSG_LEN(at + sizeof(int)) <= c->cmsg_len; at += sizeof(int)) {
        int received = -1;
        std::memcpy(&received, CMSG_DATA(c) + at, sizeof(received));
        shm::UniqueFd(received).Reset();
      }
    }
  }
  if ((message.msg_flags & MSG_CTRUNC) != 0) packet.has_descriptors = true;
  packet.size = static_cast<size_t>(got);
  // An empty packet looks like the end, but has a sender.
  packet.kind = got == 0 && !packet.has_sender ? Packet::Kind::kEnd : Packet::Kind::kPacket;
}

std::string CheckRequest(const void* packet, size_t size, bool attached, AttachRequest* request) {
  AttachRequest& r = *request;
  r = {};
  if (size != sizeof(r)) {
    return "a packet of " + std::to_string(size) + " bytes, not " + std::to_string(sizeof(r));
  }
  std::memcpy(static_cast<void*>(&r), packet, sizeof(r));
  if (r.magic != shm::kAttachMagic) return "the magic is wrong";
  if (r.version != shm::kAttachVersion) {
    return "protocol version " + std::to_string(r.version) + ", not " +
           std::to_string(shm::kAttachVersion);
  }
  const AttachOp op = static_cast<AttachOp>(r.op);
  if (op < AttachOp::kAttach || op > AttachOp::kReconnect)
    return "unknown operation " + std::to_string(r.op);
  if (op != AttachOp::kJoinSubscriber && (r.queue_capacity != 0 || r.lossy != 0)) {
    return "a subscriber's fields in operation " + std::to_string(r.op);
  }
  if (op == AttachOp::kReconnect) return attached ? "a reconnect of a session" : CheckReconnect(r);
  if (r.session != 0 || !IsZero(r.cookie))
    return "fields of kReconnect in operation " + std::to_string(r.op);
  if (op == AttachOp::kAttach) return attached ? "a second attach" : CheckAttach(r);
  if (!attached) return "operation " + std::to_string(r.op) + " before an attach";
  if (r.layout_version != 0 || r.limits_hash != 0 || r.has_token != 0 || !IsZero(r.token) ||
      r.read_only != 0) {
    return "fields of kAttach in operation " + std::to_string(r.op);
  }
  if (op == AttachOp::kJoinPublisher || op == AttachOp::kJoinSubscriber) return CheckJoin(r);
  if (!IsZero(r.name) || !IsZero(r.message_type))
    return "names in operation " + std::to_string(r.op);
  if (op == AttachOp::kDetach && (r.channel != 0 || r.index != 0)) return "indices in a detach";
  return "";
}

std::string LayoutDifference(const AttachRequest& request) {
  if (request.layout_version == shm::kLayoutVersion && request.limits_hash == shm::LimitsHash())
    return "";
  return fmt::format(
      "the daemon has shared-memory layout version {} (limits {:08x}), the client has {} (limits "
      "{:08x}): use daemon and client library of the same release",
      shm::kLayoutVersion, shm::LimitsHash(), request.layout_version, request.limits_hash);
}

void StartReply(const AttachRequest& request, AttachReply& reply) {
  std::memset(static_cast<void*>(&reply), 0, sizeof(reply));
  reply.magic = shm::kAttachMagic;
  reply.version = shm::kAttachVersion;
  reply.op = request.op;
  reply.layout_version = shm::kLayoutVersion;
}

void SetMessage(AttachReply& reply, const std::string& text) {
  text.copy(reply.message, sizeof(reply.message) - 1);
}

bool SendReply(int fd, const shm::AttachReply& reply, const std::vector<int>& descriptors) {
  iovec part{const_cast<shm::AttachReply*>(&reply), sizeof(reply)};  // sendmsg does not write to it
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  alignas(cmsghdr) char control[CMSG_SPACE(2 * sizeof(int))] = {};
  if (!descriptors.empty()) {
    const size_t bytes = descriptors.size() * sizeof(int);
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(bytes);
    cmsghdr* rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(bytes);
    std::memcpy(CMSG_DATA(rights), descriptors.data(), bytes);
  }
  return sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) == static_cast<ssize_t>(sizeof(reply));
}

}  // namespace zerocp
