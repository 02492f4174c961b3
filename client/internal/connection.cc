#include "client/internal/connection.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <utility>

#include "shm/channel.h"
#include "shm/mutant.h"
#include "shm/runtime_dir.h"

namespace zerocp::internal {
namespace {

using shm::AttachOp;
using shm::AttachReply;
using shm::AttachRequest;
using shm::Code;
using shm::Result;
using shm::Status;
using shm::UniqueFd;

AttachRequest NewRequest(AttachOp op) {
  AttachRequest request{};
  request.magic = shm::kAttachMagic;
  request.version = shm::kAttachVersion;
  request.op = static_cast<uint32_t>(op);
  return request;
}

// REQUIRES: `text` fits.
template <size_t n>
void Copy(char (&field)[n], std::string_view text) {
  text.copy(field, text.size());
}

// Moves the first two descriptors of a control message to `descriptors`, closes all others.
void TakeDescriptors(msghdr& message, UniqueFd (*descriptors)[2]) {
  if (Mutant(86) && descriptors == nullptr) return;
  size_t count = 0;
  for (cmsghdr* part = CMSG_FIRSTHDR(&message); part != nullptr;
       part = CMSG_NXTHDR(&message, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    const size_t bytes = part->cmsg_len - CMSG_LEN(0);
    for (size_t at = 0; at + sizeof(int) <= bytes; at += sizeof(int), ++count) {
      int fd;
      std::memcpy(&fd, CMSG_DATA(part) + at, sizeof(fd));
      UniqueFd owned(fd);
      if (descriptors != nullptr && count < 2) (*descriptors)[count] = std::move(owned);
    }
  }
}

Status LimitTime(int socket, const std::string& path) {
  const timeval timeout{.tv_sec = kReplyTimeout.count(), .tv_usec = 0};
  for (int option : {SO_SNDTIMEO, SO_RCVTIMEO}) {
    if (setsockopt(socket, SOL_SOCKET, option, &timeout, sizeof(timeout)) != 0) {
      return Status::FromErrno(Code::kUnavailable, "cannot limit the time of " + path, errno);
    }
  }
  return Status();
}

std::string MessageOf(const AttachReply& reply) {
  return std::string(reply.message, strnlen(reply.message, sizeof(reply.message)));
}

}  // namespace

Result<std::unique_ptr<Connection>> Connection::Open(const std::string& socket_path) {
  return FromSocket(ConnectToDaemon(socket_path, SOCK_SEQPACKET));
}

Result<std::unique_ptr<Connection>> Connection::Find(const std::string& runtime_dir) {
  return FromSocket(FindDaemon(runtime_dir, shm::kAttachSocket, SOCK_SEQPACKET));
}

Result<std::unique_ptr<Connection>> Connection::FromSocket(Result<DaemonSocket> socket) {
  if (!socket.ok()) return socket.status();
  if (Status status = LimitTime(socket->fd.get(), socket->path); !status.ok()) return status;
  // To be found again from whatever directory the process is in then.
  std::error_code error;
  const std::filesystem::path absolute = std::filesystem::absolute(socket->path, error);
  if (!error) socket->path = absolute;
  return std::unique_ptr<Connection>(new Connection(std::move(*socket)));
}

Result<Connection::Attached> Connection::Attach(std::string_view name, std::optional<Token> token,
                                                bool read_only) {
  AttachRequest request = NewRequest(AttachOp::kAttach);
  request.layout_version = shm::kLayoutVersion;
  request.limits_hash = shm::LimitsHash();
  request.read_only = read_only ? 1 : 0;
  Copy(request.name, name);
  if (token) {
    request.has_token = 1;
    std::memcpy(request.token, token->data(), token->size());
  }
  AttachReply reply;
  UniqueFd descriptors[2];
  std::lock_guard lock(mutex_);
  Status status = Call(request, &reply, &descriptors);
  explicit_bzero(request.token, sizeof(request.token));
  if (!status.ok()) {
    if (status.code() != Code::kVersionMismatch) return status;
    return Status(Code::kVersionMismatch,
                  "the daemon at " + socket_path_ + " uses memory layout " +
                      std::to_string(reply.layout_version) + ", this libzerocp layout " +
                      std::to_string(shm::kLayoutVersion) + ": use the same release of both (" +
                      status.message() + ")");
  }
  if (!descriptors[1]) return Lost("it sent no memory");
  auto manager = shm::MemPoolManager::Attach(std::move(descriptors[0]), std::move(descriptors[1]),
                                             reply.read_only != 0);
  if (!manager.ok()) {
    const bool limited = manager.code() == Code::kNoMemory;  // which is the daemon's only
    return limited ? Status(Code::kLimit, manager.status().message()) : manager.status();
  }
  // From here on the mapping says that this process lives in its session. A daemon that was
  // replaced before may have looked too early, and given the session to another.
  pollfd still_there{socket_.get(), 0, 0};
  if (poll(&still_there, 1, 0) != 0) return Lost("it ended while this process attached");
  if (reply.session < shm::kFirstSession || reply.session >= (*manager)->session_capacity()) {
    return Lost("it sent session number " + std::to_string(reply.session) + " of " +
                std::to_string((*manager)->session_capacity()));
  }
  session_ = static_cast<uint16_t>(reply.session);
  std::copy(std::begin(reply.cookie), std::end(reply.cookie), cookie_.begin());
  memory_ = manager->get();
  return Attached{session_, reply.read_only != 0, std::move(*manager)};
}

Result<shm::JoinInfo> Connection::Join(AttachOp op, std::string_view channel,
                                       std::string_view message_type,
                                       const shm::SubscriberSpec& subscriber) {
  if (channel.empty() || channel.size() >= shm::kNameBytes) {
    return Status(Code::kInvalid, "a channel's name has 1 to " +
                                      std::to_string(shm::kNameBytes - 1) +
                                      " characters, this has " + std::to_string(channel.size()));
  }
  if (message_type.size() > shm::kMessageTypeBytes) {
    return Status(Code::kInvalid, "a message type has at most " +
                                      std::to_string(shm::kMessageTypeBytes) + " bytes, this has " +
                                      std::to_string(message_type.size()));
  }
  AttachRequest request = NewRequest(op);
  Copy(request.name, channel);
  Copy(request.message_type, message_type);
  if (op == AttachOp::kJoinSubscriber) {
    request.queue_capacity = subscriber.queue_capacity;
    request.lossy = subscriber.lossy ? 1 : 0;
  }
  AttachReply reply;
  std::lock_guard lock(mutex_);
  members_.reserve(members_.size() + 1);
  if (Status status = Call(request, &reply); !status.ok()) {
    if (status.code() != Code::kNotFound) return status;
    return Status(Code::kNotFound,
                  "the daemon at " + socket_path_ + " has no channel '" + std::string(channel) +
                      "'; `zerocp channels` lists those it has; make one with `zerocp channels "
                      "create`, the RPC CreateChannel, or zerocpd's --channel");
  }
  const AttachOp leave =
      op == AttachOp::kJoinPublisher ? AttachOp::kLeavePublisher : AttachOp::kLeaveSubscriber;
  members_.push_back({leave, reply.channel, reply.index});
  return shm::ReadJoinInfo(reply);
}

Status Connection::Leave(AttachOp op, uint32_t channel, uint32_t index) {
  AttachRequest request = NewRequest(op);
  request.channel = channel;
  request.index = index;
  AttachReply reply;
  std::lock_guard lock(mutex_);
  const Status status = Call(request, &reply);
  std::erase(members_, Member{op, channel, index});
  // A request that was carried out before its answer was lost; or the daemon let the member out.
  return status.code() == Code::kNotFound ? Status() : status;
}

Status Connection::Detach() {
  AttachReply reply;
  std::lock_guard lock(mutex_);
  memory_ = nullptr;
  return Call(NewRequest(AttachOp::kDetach), &reply);
}

Status Connection::CheckIn() {
  std::unique_lock lock(mutex_, std::try_to_lock);
  if (!lock.owns_lock()) return Status();
  // The daemon says nothing unasked: whatever is there is the end.
  pollfd end{socket_.get(), 0, 0};
  if (!broken_ && poll(&end, 1, 0) == 0) return Status();
  return Reconnect();
}

Status Connection::Call(const AttachRequest& request, AttachReply* reply,
                        UniqueFd (*descriptors)[2]) {
  if (!broken_) {
    Status status = Exchange(request, reply, descriptors);
    if (!broken_ || session_ == 0) return status;
  }
  if (session_ == 0) return Lost("it was lost in an earlier call");
  if (Status status = Reconnect(); !status.ok()) return status;
  return Exchange(request, reply, descriptors);
}

Status Connection::Exchange(const AttachRequest& request, AttachReply* reply,
                            UniqueFd (*descriptors)[2]) {
  std::memset(reply, 0, sizeof(*reply));
  Status status = Send(request);
  if (status.ok()) status = Receive(reply, descriptors);
  if (status.ok() && (reply->magic != shm::kAttachMagic || reply->version != shm::kAttachVersion ||
                      reply->op != request.op)) {
    status = Lost("it does not speak version " + std::to_string(shm::kAttachVersion) +
                  " of the attach protocol");
  }
  if (!status.ok()) {
    broken_ = true;
    return status;
  }
  if (reply->code == static_cast<int32_t>(Code::kOk)) return Status();
  return Status(static_cast<Code>(reply->code), MessageOf(*reply));
}

Status Connection::Reconnect() {
  broken_ = true;
  if (instance_lost_) return InstanceLost();
  Result<DaemonSocket> socket = ConnectToDaemon(socket_path_, SOCK_SEQPACKET);
  if (!socket.ok()) return Lost(socket.status().message());
  if (Status status = LimitTime(socket->fd.get(), socket_path_); !status.ok()) return status;
  socket_ = std::move(socket->fd);
  broken_ = false;
  AttachRequest request = NewRequest(AttachOp::kReconnect);
  request.layout_version = shm::kLayoutVersion;
  request.limits_hash = shm::LimitsHash();
  request.session = session_;
  std::copy(cookie_.begin(), cookie_.end(), request.cookie);
  AttachReply reply;
  Status status = Exchange(request, &reply);
  explicit_bzero(request.cookie, sizeof(request.cookie));
  if (broken_) return status;
  // Another layout has other segments.
  if (status.code() == Code::kInstanceLost || status.code() == Code::kVersionMismatch) {
    broken_ = instance_lost_ = true;
    return InstanceLost();
  }
  if (!status.ok()) {
    broken_ = true;
    return Lost("it refused the session: " + status.message());
  }
  LeaveForgotten();
  return broken_ ? Lost("it ended again") : Status();
}

// Only what the daemon keeps in shared memory says what became of a join whose answer never came.
// Whatever a peer has forged there, the daemon lets nobody out but this session's own.
void Connection::LeaveForgotten() {
  if (memory_ == nullptr) return;  // about to detach, which lets everybody out
  for (uint32_t channel = 0; channel < shm::kMaxChannels; ++channel) {
    const shm::ChannelEntry& entry = memory_->channel_entry(channel);
    if (entry.state.load(std::memory_order_acquire) !=  // PAIR channel.state
        static_cast<uint32_t>(shm::ChannelState::kOpen)) {
      continue;
    }
    const shm::ChannelGeometry geometry{entry.region_offset, entry.queue_capacity,
                                        entry.max_subscriber_count};
    std::byte* region = memory_->ManagementAt(geometry.region_offset, geometry.region_bytes());
    if (region == nullptr || geometry.max_subscriber_count > shm::kMaxSubscribers) continue;
    const shm::ChannelView view = shm::ChannelView::At(region, geometry);
    for (uint32_t k = 0; k < geometry.max_subscriber_count; ++k) {
      LeaveIfForgotten({AttachOp::kLeaveSubscriber, channel, k},
                       view.subscribers[k].session.load(std::memory_order_acquire));
    }
    for (uint32_t lane = 0; lane < shm::kLaneEntries; ++lane) {
      if (view.lanes[lane].state.load(std::memory_order_acquire) !=
          static_cast<uint16_t>(shm::LaneState::kOpen)) {
        continue;
      }
      LeaveIfForgotten({AttachOp::kLeavePublisher, channel, lane},
                       view.lanes[lane].session.load(std::memory_order_relaxed));
    }
  }
}

void Connection::LeaveIfForgotten(const Member& member, uint16_t session) {
  if (session != session_ || broken_ || Mutant(21) ||
      std::find(members_.begin(), members_.end(), member) != members_.end()) {
    return;
  }
  AttachRequest request = NewRequest(member.leave);
  request.channel = member.channel;
  request.index = member.index;
  AttachReply reply;
  (void)Exchange(request, &reply);
}

Status Connection::Send(const AttachRequest& request) {
  ssize_t sent;
  do {
    sent = send(socket_.get(), &request, sizeof(request), MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  if (sent == static_cast<ssize_t>(sizeof(request))) return Status();
  return Lost(sent < 0 ? std::strerror(errno) : "it took only a part of a packet");
}

Status Connection::Receive(AttachReply* reply, UniqueFd (*descriptors)[2]) {
  iovec bytes{.iov_base = reply, .iov_len = sizeof(*reply)};
  alignas(cmsghdr) char control[CMSG_SPACE(2 * sizeof(int))];
  msghdr message{};
  message.msg_iov = &bytes;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  ssize_t received;
  do {
    received = recvmsg(socket_.get(), &message, MSG_CMSG_CLOEXEC);
  } while (received < 0 && errno == EINTR);
  if (received < 0) {
    if (errno != EAGAIN) return Lost(std::strerror(errno));
    return Lost("it did not answer within " + std::to_string(kReplyTimeout.count()) + " s");
  }
  TakeDescriptors(message, descriptors);
  if (received == 0) return Lost("it hung up");
  if (received != static_cast<ssize_t>(sizeof(*reply)) || (message.msg_flags & MSG_TRUNC) != 0) {
    const char* more = (message.msg_flags & MSG_TRUNC) != 0 ? "more than " : "";
    return Lost(std::string("it sent a packet of ") + more + std::to_string(received) +
                " bytes, a reply has " + std::to_string(sizeof(*reply)));
  }
  return Status();
}

Status Connection::Lost(const std::string& why) const {
  const char* next = session_ != 0 ? "; the next call tries again" : "; connect again";
  return Status(Code::kUnavailable, "lost the daemon at " + socket_path_ + ": " + why + next);
}

Status Connection::InstanceLost() const {
  return Status(Code::kInstanceLost,
                "the daemon at " + socket_path_ +
                    " does not know this session: it came back with other segments. What this "
                    "client has can be read and released, and reaches nobody; connect again");
}

}  // namespace zerocp::internal
