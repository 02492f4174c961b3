#include "server/grpc_listener.h"

#include <fcntl.h>
#include <poll.h>
#include <spdlog/spdlog.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <utility>

namespace zerocp {
namespace {

// After accept4 failed for want of a descriptor or memory.
constexpr int kBackOffMs = 100;

}  // namespace

GrpcListener::GrpcListener(std::string name, shm::UniqueFd listening,
                           std::unique_ptr<Acceptor> acceptor)
    : name_(std::move(name)),
      listening_(std::move(listening)),
      stop_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      acceptor_(std::move(acceptor)) {
  // A connection that is gone before its turn must not block the loop.
  fcntl(listening_.get(), F_SETFL, fcntl(listening_.get(), F_GETFL) | O_NONBLOCK);
  thread_ = std::thread([this] { Run(); });
}

GrpcListener::~GrpcListener() { Stop(); }

void GrpcListener::Stop() {
  if (!thread_.joinable()) return;
  eventfd_write(stop_.get(), 1);
  thread_.join();
  listening_.Reset();
}

void GrpcListener::Run() {
  bool starved = false;
  while (!WaitForStop(starved ? kBackOffMs : -1, !starved)) {
    const bool was_starved = std::exchange(starved, !AcceptAll());
    if (starved && !was_starved) {
      spdlog::error(
          "{}: cannot accept connections: {}; new ones wait until there is room (raise "
          "LimitNOFILE)",
          name_, std::strerror(errno));
    } else if (!starved && was_starved) {
      spdlog::info("{}: accepts connections again", name_);
    }
  }
}

bool GrpcListener::WaitForStop(int timeout_ms, bool for_connection) {
  pollfd fds[] = {{stop_.get(), POLLIN, 0}, {listening_.get(), POLLIN, 0}};
  while (poll(fds, for_connection ? 2 : 1, timeout_ms) < 0 && errno == EINTR) {
  }
  return fds[0].revents != 0;
}

bool GrpcListener::AcceptAll() {
  for (;;) {
    const int fd = accept4(listening_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd >= 0) {
      Acceptor::NewConnectionParameters connection;
      connection.fd = fd;
      acceptor_->HandleNewConnection(&connection);
      continue;
    }
    switch (errno) {
      case EINTR:
      case ECONNABORTED:
        continue;
      case EAGAIN:
        return true;
      default:
        return false;
    }
  }
}

}  // namespace zerocp
