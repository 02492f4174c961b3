// A connection to a daemon's attach socket: the client's end of shm/attach_protocol.h.
//
// The connection stays open for as long as this process may touch the segments; its end tells the
// daemon that the process is gone. One request at a time; a reply that does not come within
// kReplyTimeout, or makes no sense, breaks the connection for good: it stays open, and every later
// request fails.
//
// Threads. All functions from any thread, but for Abandon.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

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
  // kJoinPublisher or kJoinSubscriber; `subscriber` is only for the latter. kNotFound,
  // kTypeMismatch, kLimit, kUnavailable, kInvalid.
  shm::Result<shm::JoinInfo> Join(shm::AttachOp op, std::string_view channel,
                                  std::string_view message_type,
                                  const shm::SubscriberSpec& subscriber);
  // kLeavePublisher or kLeaveSubscriber.
  shm::Status Leave(shm::AttachOp op, uint32_t channel, uint32_t index);
  // Tells the daemon that the segments are unmapped.
  shm::Status Detach();

  const std::string& socket_path() const { return socket_path_; }

  // In the child of a fork: closes this copy of the descriptor, which would hide the parent's
  // death. Nothing else is called afterwards.
  void Abandon() { socket_.Reset(); }

 private:
  explicit Connection(DaemonSocket socket)
      : socket_(std::move(socket.fd)), socket_path_(std::move(socket.path)) {}
  static shm::Result<std::unique_ptr<Connection>> FromSocket(shm::Result<DaemonSocket> socket);

  // `descriptors`: where the two that come with the reply go; null if none are expected.
  shm::Status Call(const shm::AttachRequest& request, shm::AttachReply* reply,
                   shm::UniqueFd (*descriptors)[2] = nullptr);
  shm::Status Send(const shm::AttachRequest& request);
  shm::Status Receive(shm::AttachReply* reply, shm::UniqueFd (*descriptors)[2]);
  shm::Status Lost(const std::string& why) const;

  std::mutex mutex_;
  shm::UniqueFd socket_;
  const std::string socket_path_;
  bool broken_ = false;  // under mutex_
};

}  // namespace zerocp::internal
