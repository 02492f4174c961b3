#include "server/security_options.h"

#include <grp.h>
#include <pwd.h>
#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>
#include <utility>

namespace zerocp {

using shm::Code;
using shm::Result;
using shm::Status;

namespace {

// For an option that takes a number, or a name that `find` knows.
template <class Find>
CLI::Validator IdOf(const char* kind, Find find) {
  return CLI::Validator(
      [kind, find](std::string& text) {
        if (text.find_first_not_of("0123456789") == std::string::npos) return std::string();
        const auto* found = find(text.c_str());
        if (found == nullptr) return "there is no " + std::string(kind) + " " + text;
        if constexpr (requires { found->pw_uid; }) {
          text = std::to_string(found->pw_uid);
        } else {
          text = std::to_string(found->gr_gid);
        }
        return std::string();
      },
      "");
}

void DeclareAttach(CLI::App& app, AttachLimits& limits) {
  app.add_option("--allow-user", limits.users,
                 "who may attach, by name or number; repeatable; with neither this nor\n"
                 "--allow-group: whom the modes of the sockets let in")
      ->type_name("USER")
      ->transform(IdOf("user", getpwnam))
      ->allow_extra_args(false);
  app.add_option("--allow-group", limits.groups, "whose members may attach; repeatable")
      ->type_name("GROUP")
      ->transform(IdOf("group", getgrnam))
      ->allow_extra_args(false);
  app.add_option("--max-sessions-per-user", limits.max_sessions_per_user,
                 "sessions of one user at once; 0: not limited (default)")
      ->type_name("N");
  app.add_option("--max-attach-rate", limits.max_attaches_per_second,
                 "attaches of one user per second, twice as many at once (default 5000); 0: not\n"
                 "limited")
      ->type_name("N")
      ->check(CLI::Range(0u, 1'000'000u));
}

}  // namespace

void Declare(CLI::App& app, SecurityOptions& options) {
  app.add_option("--tls-listen", options.tls_listen,
                 "gRPC over TCP with client certificates, as 127.0.0.1:7747; off by default")
      ->type_name("ADDRESS:PORT");
  app.add_option("--tls-cert", options.tls.certificate, "TLS: the daemon's certificate chain, PEM")
      ->type_name("FILE");
  app.add_option("--tls-key", options.tls.key, "TLS: the certificate's private key, PEM")
      ->type_name("FILE");
  app.add_option(
         "--tls-ca", options.tls.authority,
         "TLS: certificates of the authorities that sign clients', PEM; all three files are\n"
         "read again when they change")
      ->type_name("FILE");
  app.add_option("--tls-admin", options.tls_admins,
                 "TLS: who may do everything: a URI or DNS name in the certificate, as\n"
                 "spiffe://example.org/operator; repeatable")
      ->type_name("NAME")
      ->allow_extra_args(false);
  app.add_option("--tls-observer", options.tls_observers, "TLS: who may read; repeatable")
      ->type_name("NAME")
      ->allow_extra_args(false);
  DeclareAttach(app, options.attach);
  app.add_option("--audit-log", options.audit_log,
                 "a JSON line for every call that changes something, or tries to; -: to stdout")
      ->type_name("FILE");
}

Status Check(const SecurityOptions& options) {
  const TlsPaths& paths = options.tls;
  const bool any_file =
      !paths.certificate.empty() || !paths.key.empty() || !paths.authority.empty();
  const bool any_name = !options.tls_admins.empty() || !options.tls_observers.empty();
  if (options.tls_listen.empty()) {
    if (!any_file && !any_name) return Status();
    return Status(Code::kInvalid,
                  "--tls-cert, --tls-key, --tls-ca, --tls-admin and --tls-observer go with "
                  "--tls-listen ADDRESS:PORT");
  }
  if (Status status = CheckTcpAddress(options.tls_listen); !status.ok())
    return Status(Code::kInvalid, "--tls-listen " + status.message());
  if (paths.certificate.empty() || paths.key.empty() || paths.authority.empty())
    return Status(Code::kInvalid, "--tls-listen needs --tls-cert, --tls-key and --tls-ca");
  if (!any_name) {
    return Status(Code::kInvalid,
                  "--tls-listen needs a --tls-admin or a --tls-observer: nobody else may do "
                  "anything there");
  }
  return Status();
}

Result<std::optional<TlsEndpoint>> OpenTls(const SecurityOptions& options) {
  if (options.tls_listen.empty()) return std::optional<TlsEndpoint>();
  Result<std::unique_ptr<TlsFiles>> files = TlsFiles::Open(options.tls);
  if (!files.ok()) return files.status();
  Result<TcpListener> listener = ListenTcp(options.tls_listen);
  if (!listener.ok())
    return Status(listener.code(), "--tls-listen: " + listener.status().message());
  spdlog::info("TLS on {}: the certificate of {} expires on {}", listener->address,
               (*files)->subject(), UtcText((*files)->expire_time()));
  return std::optional<TlsEndpoint>(TlsEndpoint{std::move(*files), std::move(*listener),
                                                options.tls_admins, options.tls_observers});
}

}  // namespace zerocp
