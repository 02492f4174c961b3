#include "server/tcp_socket.h"

#include <netdb.h>
#include <sys/socket.h>

#include <cerrno>
#include <memory>

namespace zerocp {
namespace {

using shm::Code;
using shm::Result;
using shm::Status;

struct FreeAddress {
  void operator()(addrinfo* address) const { freeaddrinfo(address); }
};
using Address = std::unique_ptr<addrinfo, FreeAddress>;

Result<Address> Parse(std::string_view text) {
  const size_t colon = text.rfind(':');
  std::string host(text.substr(0, colon == std::string_view::npos ? 0 : colon));
  const std::string port(colon == std::string_view::npos ? "" : text.substr(colon + 1));
  const bool bracketed = host.size() > 2 && host.front() == '[' && host.back() == ']';
  if (bracketed) host = host.substr(1, host.size() - 2);
  const bool plausible = !host.empty() && !port.empty() && port.size() <= 5 &&
                         port.find_first_not_of("0123456789") == std::string::npos &&
                         std::stoi(port) <= 65535 &&
                         bracketed == (host.find(':') != std::string::npos);
  addrinfo hints{};
  hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (!plausible || getaddrinfo(host.c_str(), port.c_str(), &hints, &found) != 0) {
    return Status(Code::kInvalid,
                  std::string(text) +
                      ": an address and a port are needed, as 127.0.0.1:7747 or [::1]:7747; port 0 "
                      "lets the kernel choose");
  }
  return Address(found);
}

std::string TextOf(int fd) {
  sockaddr_storage address{};
  socklen_t size = sizeof(address);
  char host[NI_MAXHOST] = "";
  char port[NI_MAXSERV] = "";
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0 ||
      getnameinfo(reinterpret_cast<sockaddr*>(&address), size, host, sizeof(host), port,
                  sizeof(port), NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
    return "";
  }
  const std::string text = address.ss_family == AF_INET6 ? "[" + std::string(host) + "]" : host;
  return text + ":" + port;
}

}  // namespace

Result<TcpListener> ListenTcp(std::string_view text) {
  const Result<Address> address = Parse(text);
  if (!address.ok()) return address.status();
  const addrinfo& info = **address;
  TcpListener listener;
  listener.fd = shm::UniqueFd(socket(info.ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int on = 1;  // a port whose last connections are still closing can be had at once
  if (!listener.fd ||
      setsockopt(listener.fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) != 0 ||
      bind(listener.fd.get(), info.ai_addr, info.ai_addrlen) != 0 ||
      listen(listener.fd.get(), SOMAXCONN) != 0) {
    return Status::FromErrno(Code::kUnavailable, "cannot listen on " + std::string(text), errno);
  }
  listener.address = TextOf(listener.fd.get());
  return listener;
}

Status CheckTcpAddress(std::string_view address) { return Parse(address).status(); }

}  // namespace zerocp
