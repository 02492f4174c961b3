// The part of zerocpd's command line that decides who may do what.
#pragma once

#include <optional>
#include <set>
#include <string>

#include "server/attach_policy.h"
#include "server/tcp_socket.h"
#include "server/tls_files.h"
#include "shm/status.h"

namespace CLI {
class App;
}

namespace zerocp {

struct SecurityOptions {
  std::string tls_listen;  // empty: off
  TlsPaths tls;
  std::set<std::string> tls_admins;  // identities of certificates: a URI or DNS name each
  std::set<std::string> tls_observers;
  AttachLimits attach;
  std::string audit_log;  // a path, or "-"; empty: none
};

// Declares its options on `app`, which parses into `options`.
void Declare(CLI::App& app, SecurityOptions& options);
// What CLI11 cannot check. kInvalid.
shm::Status Check(const SecurityOptions& options);

// The TLS listener before gRPC has it.
struct TlsEndpoint {
  std::unique_ptr<TlsFiles> files;
  TcpListener listener;
  std::set<std::string> admins;
  std::set<std::string> observers;
};
// None if it is off. kInvalid: files; kUnavailable: the port.
shm::Result<std::optional<TlsEndpoint>> OpenTls(const SecurityOptions& options);

}  // namespace zerocp
