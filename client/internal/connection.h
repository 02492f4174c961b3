// A connection to a daemon's attach socket: the client's end of shm/attach_protocol.h.
//
// The connection stays open for as long as this process may touch the segments; its end tells the
// daemon that the process is gone. One request at a time; a reply that does not come within
// kReplyTimeout, or makes no sense, breaks it.
//
// A broken connection is made anew, once the process is attached: by the next request, which is
// then sent again, and by CheckIn. What the daemon had done for a request whose answer was lost is
// undone first: the session's entries in the channels' tables that are not in `members_` are left.
// A daemon that does not know the session came back with other segments; that is for good.
//
// Threads. All functions from any thread, but for Abandon.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "client/internal/find_daemon.h"
#include "shm/attach_protocol.h"
#include "shm/mem_pool_manager.h"
#include "shm/status.h"
#include "shm/unique_fd.h"

namespace zerocp::internal {

inline constexpr std::chrono::seconds kReplyTimeout{10};

class Connection {
 public:
  using Token = std::span<const uint8_t, shm::kTokenBytes>;

  // Connects to the daemon in the first of the directories where a client looks that has one.
  // kUnavailable: none answers; the message lists every path tried.
  static shm::Result<std::unique_ptr<Connection>> Find(const std::string& runtime_dir);
  // kUnavailable, kDenied.
  static shm::Result<std::unique_ptr<Connection>> Open(const std::string& socket_path);

  struct Attached {
    uint16_t session;
    bool read_only;
    std::shared_ptr<shm::MemPoolManager> manager;
  };
  // Makes this process a session and maps its memory. REQUIRES: `name` has less than kNameBytes
  // bytes. A token may grant less than is asked for. kVersionMismatch, kDenied, kLimit, kDamaged,
  // kUnavailable.
  shm::Result<Attached> Attach(std::string_view name, std::optional<Token> token, bool read_only);
  // The memory stays mapped until Detach is called. What follows also returns kInstanceLost.

  // kJoinPublisher or kJoinSubscriber; `subscriber` is only for the latter. kNotFound,
  // kTypeMismatch, kLimit, kUnavailable, kInvalid.
  shm::Result<shm::JoinInfo> Join(shm::AttachOp op, std::string_view channel,
                                  std::string_view message_type,
                                  const shm::SubscriberSpec& subscriber);
  // kLeavePublisher or kLeaveSubscriber. If it is kOk, the member's memory is not to be touched any
  // more.
  shm::Status Leave(shm::AttachOp op, uint32_t channel, uint32_t index);
  // Tells the daemon that the segments are unmapped.
  shm::Status Detach();
  // Looks whether the connection has ended, and then tries once to make it anew. kUnavailable: the
  // daemon is away; kInstanceLost: for good. kOk also while another thread has a request under way.
  shm::Status CheckIn();

  const std::string& socket_path() const { return socket_path_; }

  // In the child of a fork: closes this copy of the descriptor, which would hide the parent's
  // death. Nothing else is called afterwards.
  void Abandon() { socket_.Reset(); }

 private:
  explicit Connection(DaemonSocket socket)
      : socket_(std::move(socket.fd)), socket_path_(std::move(socket.path)) {}
  static shm::Result<std::unique_ptr<Connection>> FromSocket(shm::Result<DaemonSocket> socket);

  struct Member {
    shm::AttachOp leave;
    uint32_t channel;
    uint32_t index;
    bool operator==(const Member&) const = default;
  };

  // The functions below: REQUIRES: mutex_ is held.

  // `descriptors`: where the two that come with the reply go; null if none are expected.
  shm::Status Call(const shm::AttachRequest& request, shm::AttachReply* reply,
                   shm::UniqueFd (*descriptors)[2] = nullptr);
  // One request on the connection as it is.
  shm::Status Exchange(const shm::AttachRequest& request, shm::AttachReply* reply,
                       shm::UniqueFd (*descriptors)[2] = nullptr);
  shm::Status Reconnect();
  void LeaveForgotten();
  void LeaveIfForgotten(const Member& member, uint16_t session);
  shm::Status Send(const shm::AttachRequest& request);
  shm::Status Receive(shm::AttachReply* reply, shm::UniqueFd (*descriptors)[2]);
  shm::Status Lost(const std::string& why) const;
  shm::Status InstanceLost() const;

  std::mutex mutex_;
  shm::UniqueFd socket_;
  const std::string socket_path_;
  // Under mutex_:
  bool broken_ = false;
  bool instance_lost_ = false;
  uint16_t session_ = 0;  // 0: not attached
  std::array<uint8_t, shm::kCookieBytes> cookie_{};
  shm::MemPoolManager* memory_ = nullptr;  // what Attach mapped; null once it is unmapped
  std::vector<Member> members_;            // as far as the daemon's answers say
};

}  // namespace zerocp::internal
