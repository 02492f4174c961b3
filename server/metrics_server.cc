#include "server/metrics_server.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <exception>
#include <thread>
#include <utility>

#include "shm/unique_fd.h"

namespace zerocp {
namespace {

using shm::Code;
using shm::Result;
using shm::Status;

// Calls `use`, as bind or connect, with a new socket and the address.
template <class Use>
int WithSocket(const std::string& listen_address, Use use) {
  const size_t colon = listen_address.rfind(':');
  const std::string host = listen_address.substr(0, colon);
  const auto port = static_cast<uint16_t>(std::stoul(listen_address.substr(colon + 1)));
  sockaddr_in v4{};
  v4.sin_family = AF_INET;
  v4.sin_port = htons(port);
  sockaddr_in6 v6{};
  v6.sin6_family = AF_INET6;
  v6.sin6_port = htons(port);
  const bool is_v6 = host.front() == '[';
  const auto* address =
      is_v6 ? reinterpret_cast<const sockaddr*>(&v6) : reinterpret_cast<const sockaddr*>(&v4);
  if (is_v6) {
    inet_pton(AF_INET6, host.substr(1, host.size() - 2).c_str(), &v6.sin6_addr);
  } else {
    inet_pton(AF_INET, host.c_str(), &v4.sin_addr);
  }
  const shm::UniqueFd fd(socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  return use(fd.get(), address, static_cast<socklen_t>(is_v6 ? sizeof(v6) : sizeof(v4)));
}

// Why nobody can listen there; 0: nothing seems to be in the way. CivetWeb does not say.
int WhyNot(const std::string& listen_address) {
  return WithSocket(listen_address, [](int fd, const sockaddr* address, socklen_t size) {
    const int on = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    return bind(fd, address, size) == 0 && listen(fd, 1) == 0 ? 0 : errno;
  });
}

}  // namespace

Result<std::unique_ptr<MetricsServer>> MetricsServer::Start(const std::string& address) {
  try {
    auto exposer = std::make_unique<prometheus::Exposer>(std::vector<std::string>{
        "listening_ports", address, "num_threads", "2", "request_timeout_ms", "10000"});
    const std::string port = std::to_string(exposer->GetListeningPorts().at(0));
    return std::unique_ptr<MetricsServer>(
        new MetricsServer(std::move(exposer), address.substr(0, address.rfind(':') + 1) + port));
  } catch (const std::exception&) {
    const int error = WhyNot(address);
    const std::string what = "cannot serve metrics at " + address +
                             " (choose another --metrics-listen, port 0 takes a free one)";
    return error == 0 ? Status(Code::kUnavailable, what)
                      : Status::FromErrno(Code::kUnavailable, what, error);
  }
}

// CivetWeb looks every 2 s whether it is to stop, and after each connection: it gets some.
MetricsServer::~MetricsServer() {
  std::atomic<bool> stopped{false};
  std::thread waker([&] {
    while (!stopped) {
      WithSocket(address_, connect);
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
  });
  exposer_.reset();
  stopped = true;
  waker.join();
}

void MetricsServer::Serve(std::vector<std::shared_ptr<prometheus::Collectable>> metrics) {
  metrics_ = std::move(metrics);
  for (const auto& collectable : metrics_) exposer_->RegisterCollectable(collectable);
}

}  // namespace zerocp
