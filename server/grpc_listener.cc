#include "server/grpc_listener.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <spdlog/spdlog.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "shm/mutant.h"

namespace zerocp {
namespace {

// After accept4 failed for want of a descriptor or memory.
constexpr int kBackOffMs = 100;
constexpr std::chrono::seconds kBetweenComplaints{10};

enum class Beginning { kPart, kWhole, kWrong };

// Whether the preface of HTTP/2 (RFC 9113, 3.4) and its SETTINGS frame wait to be read.
Beginning BeginningOf(int fd) {
  constexpr std::string_view kPreface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
  constexpr size_t kFrameHeader = 9;
  constexpr size_t kSettings = 4;
  std::array<char, 1024> bytes{};
  const ssize_t got = recv(fd, bytes.data(), bytes.size(), MSG_PEEK | MSG_DONTWAIT);
  if (got < 0) return errno == EAGAIN || errno == EINTR ? Beginning::kPart : Beginning::kWrong;
  if (got == 0) return Beginning::kWrong;  // the end
  const auto size = static_cast<size_t>(got);
  const size_t compared = std::min(size, kPreface.size());
  if (std::string_view(bytes.data(), compared) != kPreface.substr(0, compared))
    return Beginning::kWrong;
  if (size < kPreface.size() + kFrameHeader) return Beginning::kPart;
  const auto at = [&](size_t i) {
    return size_t{static_cast<unsigned char>(bytes[kPreface.size() + i])};
  };
  const size_t whole = kPreface.size() + kFrameHeader + (at(0) << 16 | at(1) << 8 | at(2));
  if (at(3) != kSettings || whole > bytes.size()) return Beginning::kWrong;
  return size < whole ? Beginning::kPart : Beginning::kWhole;
}

}  // namespace

GrpcListener::GrpcListener(Options options, shm::UniqueFd listening, GrpcConnections& connections,
                           HandOver hand_over)
    : options_(std::move(options)),
      listening_(std::move(listening)),
      stop_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      epoll_(epoll_create1(EPOLL_CLOEXEC)),
      connections_(connections),
      hand_over_(std::move(hand_over)) {
  // A connection that is gone before its turn must not block the loop.
  fcntl(listening_.get(), F_SETFL, fcntl(listening_.get(), F_GETFL) | O_NONBLOCK);
  Watch(stop_.get(), EPOLLIN);
  Watch(listening_.get(), EPOLLIN);
  thread_ = std::thread([this] { Run(); });
}

GrpcListener::~GrpcListener() { Stop(); }

void GrpcListener::Stop() {
  if (!thread_.joinable()) return;
  eventfd_write(stop_.get(), 1);
  thread_.join();
  waiting_.clear();
  listening_.Reset();
}

void GrpcListener::Watch(int fd, uint32_t events) {
  epoll_event event{};
  event.events = events;
  event.data.fd = fd;
  if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0)
    spdlog::error("{}: cannot watch a descriptor: {}", options_.name, std::strerror(errno));
}

void GrpcListener::Listen(bool on) {
  epoll_event event{};
  event.events = on ? uint32_t{EPOLLIN} : 0;
  event.data.fd = listening_.get();
  epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, listening_.get(), &event);
}

void GrpcListener::Run() {
  for (;;) {
    std::array<epoll_event, 64> events;
    const int count = epoll_wait(epoll_.get(), events.data(), events.size(), TimeoutMs());
    bool knock = starved_;
    for (int i = 0; i < count; ++i) {
      const int fd = events[static_cast<size_t>(i)].data.fd;
      if (fd == stop_.get()) return;
      if (fd == listening_.get()) {
        knock = true;
      } else {
        Look(fd);
      }
    }
    GiveUpSilent();
    if (!knock) continue;
    const bool was_starved = std::exchange(starved_, !AcceptAll());
    if (starved_ == was_starved) continue;
    if (starved_) {
      spdlog::error(
          "{}: cannot accept connections: {}; new ones wait until there is room (raise "
          "LimitNOFILE)",
          options_.name, std::strerror(errno));
    } else {
      spdlog::info("{}: accepts connections again", options_.name);
    }
    Listen(!starved_);
  }
}

int GrpcListener::TimeoutMs() const {
  if (starved_) return kBackOffMs;
  if (waiting_.empty()) return -1;
  Clock::time_point first = Clock::time_point::max();
  for (const auto& [fd, waiting] : waiting_) first = std::min(first, waiting.since);
  const auto left =
      std::chrono::ceil<std::chrono::milliseconds>(first + options_.patience - Clock::now());
  return static_cast<int>(std::max<int64_t>(left.count(), 0));
}

bool GrpcListener::AcceptAll() {
  for (;;) {
    shm::UniqueFd fd(accept4(listening_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (fd) {
      Admit(std::move(fd));
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

void GrpcListener::Admit(shm::UniqueFd fd) {
  if (options_.tcp) {
    const int on = 1;
    setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    return HandOn(std::move(fd));
  }
  if (waiting_.size() >= options_.max_waiting) {
    waiting_.erase(std::min_element(
        waiting_.begin(), waiting_.end(),
        [](const auto& a, const auto& b) { return a.second.since < b.second.since; }));
  }
  const int number = fd.get();
  waiting_[number] = {std::move(fd), Clock::now()};
  Watch(number, EPOLLIN | EPOLLRDHUP | EPOLLET);
}

void GrpcListener::Look(int fd) {
  const auto waiting = waiting_.find(fd);
  if (waiting == waiting_.end()) return;
  const Beginning beginning = Mutant(65) ? Beginning::kWhole : BeginningOf(fd);
  if (beginning == Beginning::kPart) return;
  shm::UniqueFd owned = std::move(waiting->second.fd);
  waiting_.erase(waiting);
  if (beginning == Beginning::kWrong) return;
  epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
  HandOn(std::move(owned));
}

void GrpcListener::GiveUpSilent() {
  const Clock::time_point now = Clock::now();
  for (auto next = waiting_.begin(); next != waiting_.end();) {
    const auto waiting = next++;
    if (now - waiting->second.since >= options_.patience) waiting_.erase(waiting);
  }
}

void GrpcListener::HandOn(shm::UniqueFd fd) {
  const std::string reached = connections_.Add(fd.get());
  if (reached.empty()) return hand_over_(fd.Release());
  if (Clock::now() < next_complaint_) return;
  next_complaint_ = Clock::now() + kBetweenComplaints;
  spdlog::warn("{}: a connection is refused: {}", options_.name, reached);
}

}  // namespace zerocp
