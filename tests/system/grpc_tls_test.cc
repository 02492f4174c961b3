// TLS: who gets in, what each role may call on each listener, new files, and starts that are
// refused.
#include <google/protobuf/descriptor.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <chrono>
#include <csignal>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "server/grpc_access.h"
#include "tests/system/certificates.h"
#include "tests/system/child_process.h"
#include "tests/system/daemon_process.h"
#include "tests/system/grpc_fixture.h"
#include "zerocp/v1/admin_service.grpc.pb.h"
#include "zerocp/v1/observer_service.grpc.pb.h"
#include "zerocp/v1/session_service.grpc.pb.h"

namespace zerocp {
namespace {

using testing::Identity;
using testing::ReadFile;
using testing::RunCommand;
using testing::TestAuthority;
using testing::WriteFile;

constexpr char kAdminName[] = "spiffe://test/admin";
constexpr char kObserverName[] = "observer.test";

// Calls `address` as `client`, whose certificate may be empty: none. A handshake that fails makes
// the call UNAVAILABLE.
Caller Tls(const std::string& address, const std::string& authority, const Identity& client) {
  grpc::SslCredentialsOptions options;
  options.pem_root_certs = authority;
  options.pem_cert_chain = client.certificate;
  options.pem_private_key = client.key;
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetSslTargetNameOverride("localhost");
  return Caller(grpc::CreateCustomChannel(address, grpc::SslCredentials(options), arguments));
}

// The daemon's files, and who may do what.
class Files {
 public:
  Files() {
    Write(authority.Sign({.names = "DNS:localhost"}));
    WriteFile(dir_.path() + "/ca.pem", authority.certificate());
  }
  void Write(const Identity& identity) {
    WriteFile(dir_.path() + "/key.pem", identity.key);
    WriteFile(dir_.path() + "/cert.pem", identity.certificate);
  }
  std::string path(const std::string& name) const { return dir_.path() + "/" + name; }
  SecurityOptions Options() const {
    SecurityOptions options;
    options.tls_listen = "127.0.0.1:0";
    options.tls = {path("cert.pem"), path("key.pem"), path("ca.pem")};
    options.tls_admins = {kAdminName};
    options.tls_observers = {kObserverName};
    return options;
  }
  std::vector<std::string> Arguments(const std::string& listen = "127.0.0.1:0") const {
    return {"--tls-listen", listen,          "--tls-cert",     path("cert.pem"),
            "--tls-key",    path("key.pem"), "--tls-ca",       path("ca.pem"),
            "--tls-admin",  kAdminName,      "--tls-observer", kObserverName,
            "--pool",       "video=4096x16", "--channel",      "frames=video"};
  }

  const TestAuthority authority;

 private:
  const testing::TempDir dir_;
};

TlsEndpoint Open(const Files& files) {
  auto endpoint = OpenTls(files.Options());
  if (!endpoint.ok() || !*endpoint) {
    ADD_FAILURE() << endpoint.status().message();
    abort();
  }
  return std::move(**endpoint);
}

class TlsTest : public ::testing::Test {
 protected:
  TlsTest() : TlsTest(std::make_unique<Files>()) {}
  Caller As(const std::string& names) const {
    return Tls(address_, files_->authority.certificate(), files_->authority.Sign({.names = names}));
  }
  Outcome Call(const std::string& names, const char* method) const {
    return As(names).Call(method);
  }

  const std::unique_ptr<Files> files_;
  std::string address_;
  ControlPlane plane_;

 private:
  explicit TlsTest(std::unique_ptr<Files> files) : TlsTest(std::move(files), nullptr) {}
  TlsTest(std::unique_ptr<Files> files, std::nullptr_t)
      : files_(std::move(files)), plane_(true, [this] {
          TlsEndpoint endpoint = Open(*files_);
          address_ = endpoint.listener.address;
          return endpoint;
        }()) {}
};

TEST_F(TlsTest, TheRoleIsThatOfTheCertificatesName) {
  const struct {
    const char* names;
    const char* identity;  // as the error names it
    bool observer;
    bool admin;
  } rows[] = {
      {"URI:spiffe://test/admin", kAdminName, true, true},
      {"DNS:observer.test", kObserverName, true, false},
      {"DNS:observer.test,URI:spiffe://test/admin", kAdminName, true, true},
      {"URI:spiffe://test/other,DNS:observer.test", kObserverName, true, false},
      {"URI:spiffe://test/other", "spiffe://test/other", false, false},
      {"URI:spiffe://test/admin/", "spiffe://test/admin/", false, false},
      {"URI:spiffe://test/Admin", "spiffe://test/Admin", false, false},
      {"URI:observer.test", "observer.test", false, false},   // no DNS name
      {"DNS:spiffe://test/admin", kAdminName, false, false},  // no URI
      {"DNS:*.test", "*.test", false, false},
      {"DNS:x.observer.test", "x.observer.test", false, false},
      {"email:observer.test", "CN=test", false, false},
      {"", "CN=test", false, false},
  };
  for (const auto& row : rows) {
    SCOPED_TRACE(row.names);
    const Caller caller = As(row.names);
    const Outcome read = caller.Call(kGetServerInfo);
    const Outcome change = caller.Call(kAudit);
    EXPECT_EQ(read.code, row.observer ? kOk : kPermissionDenied) << read.message;
    EXPECT_EQ(change.code, row.admin ? kOk : kPermissionDenied) << change.message;
    if (!row.observer) {
      EXPECT_EQ(read.reason(), "ROLE_REQUIRED");
      EXPECT_EQ(read.info.metadata().at("requiredRole"), "observer");
      EXPECT_EQ(read.info.metadata().at("role"), "none");
      EXPECT_EQ(read.info.metadata().at("identity"), row.identity);
      EXPECT_EQ(read.info.metadata().at("method"), kGetServerInfo);
    }
    if (!row.admin) {
      EXPECT_EQ(change.reason(), "ROLE_REQUIRED");
      EXPECT_EQ(change.info.metadata().at("requiredRole"), "admin");
    }
    EXPECT_EQ(caller.Call(kHealthCheck).code, kOk);  // open to every certificate
  }
}

// Each method of each service, on each listener, with each role.
TEST_F(TlsTest, EveryMethodDemandsItsServicesRole) {
  const std::string admin_service = v1::AdminService::service_full_name();
  const std::string session_service = v1::SessionService::service_full_name();
  const struct {
    const char* name;
    Caller caller;
    bool admin_service;  // it is there
    bool session_service;
    Role role;
  } callers[] = {
      {"admin socket", plane_.Admin(), true, true, Role::kAdmin},
      {"client socket", plane_.Client(), false, true, Role::kClient},
      {"TLS admin", As("URI:spiffe://test/admin"), true, false, Role::kAdmin},
      {"TLS observer", As("DNS:observer.test"), true, false, Role::kObserver},
      {"TLS nobody", As("DNS:nobody.test"), true, false, Role::kNone},
  };
  int methods = 0;
  for (const std::string& name :
       {admin_service, std::string(v1::ObserverService::service_full_name()), session_service}) {
    const auto* service =
        google::protobuf::DescriptorPool::generated_pool()->FindServiceByName(name);
    for (int i = 0; i < service->method_count(); ++i, ++methods) {
      const std::string method = name + "/" + service->method(i)->name();
      // Streams that end by themselves, after one message at most: so nothing may add an event.
      const std::string request =
          method == "zerocp.v1.AdminService/ReloadConfig" ? R"({"validateOnly":true})"
          : method == "zerocp.v1.ObserverService/WatchEvents"
              ? R"({"stopAtEnd":true,"afterSequence":"1000000"})"
          : method == "zerocp.v1.ObserverService/WatchStats" ? R"({"maxUpdates":1})"
                                                             : "{}";
      for (const auto& caller : callers) {
        SCOPED_TRACE(std::string(caller.name) + " " + method);
        const Outcome outcome = caller.caller.Call(method, request);
        const bool served = name == admin_service     ? caller.admin_service
                            : name == session_service ? caller.session_service
                                                      : true;
        const bool allowed = caller.role >= (name == admin_service     ? Role::kAdmin
                                             : name == session_service ? Role::kClient
                                                                       : Role::kObserver);
        if (!served) {
          EXPECT_EQ(outcome.code, kUnimplemented);
          EXPECT_EQ(outcome.reason(), "");
        } else if (!allowed) {
          EXPECT_EQ(outcome.code, kPermissionDenied);
          EXPECT_EQ(outcome.reason(), "ROLE_REQUIRED");
        } else {
          EXPECT_NE(outcome.code, kPermissionDenied) << outcome.message;
          EXPECT_NE(outcome.code, kUnimplemented) << outcome.message;
          EXPECT_NE(outcome.code, kUnavailable) << outcome.message;
        }
      }
    }
  }
  EXPECT_GE(methods, 20);
}

TEST_F(TlsTest, OnlyAValidCertificateOfTheAuthorityGetsIn) {
  const TestAuthority& authority = files_->authority;
  const TestAuthority other;
  const std::string names = "URI:spiffe://test/admin";
  const struct {
    const char* what;
    Identity client;
  } rows[] = {
      {"no certificate", {}},
      {"of another authority", other.Sign({.names = names})},
      {"expired", authority.Sign({.names = names, .valid_to = std::chrono::seconds(-60)})},
      {"not yet valid", authority.Sign({.names = names, .valid_from = std::chrono::seconds(600)})},
      {"for servers only", authority.Sign({.names = names, .extended_key_usage = "serverAuth"})},
  };
  for (const auto& row : rows) {
    const Outcome outcome = Tls(address_, authority.certificate(), row.client).Call(kHealthCheck);
    EXPECT_EQ(outcome.code, kUnavailable) << row.what << ": " << outcome.message;
  }
  // Nor does a client that wants no TLS, or trusts another authority.
  EXPECT_EQ(Caller(grpc::CreateChannel(address_, grpc::InsecureChannelCredentials()))
                .Call(kHealthCheck)
                .code,
            kUnavailable);
  EXPECT_EQ(
      Tls(address_, other.certificate(), authority.Sign({.names = names})).Call(kHealthCheck).code,
      kUnavailable);
  EXPECT_EQ(Call(names, kHealthCheck).code, kOk);
}

TEST_F(TlsTest, ServerInfoTellsTheAddress) {
  EXPECT_TRUE(
      Contains(plane_.Client().Call(kGetServerInfo).json, "\"tlsAddress\":\"" + address_ + "\""));
}

// The real daemon.

std::string AddressIn(const std::string& log) {
  const std::string mark = "TLS on ";
  const size_t begin = log.find(mark) + mark.size();
  return log.substr(begin, log.find(": the certificate", begin) - begin);
}

TEST(TlsDaemonTest, NewFilesAreUsedWithoutARestart) {
  Files files;
  testing::DaemonProcess daemon(files.Arguments());
  const std::string address = AddressIn(daemon.Log());
  const std::string names = "URI:spiffe://test/admin";
  const Identity client = files.authority.Sign({.names = names});
  ASSERT_EQ(Tls(address, files.authority.certificate(), client).Call(kGetServerInfo).code, kOk);

  // Another authority, for both sides. Connections that are there go on.
  const Caller connected = Tls(address, files.authority.certificate(), client);
  ASSERT_EQ(connected.Call(kGetServerInfo).code, kOk);
  const TestAuthority next;
  files.Write(next.Sign({.names = "DNS:localhost"}));
  WriteFile(files.path("ca.pem"), next.certificate());
  const Identity next_client = next.Sign({.names = names});
  // ctest's time limit is the watchdog.
  while (!Tls(address, next.certificate(), next_client).Call(kGetServerInfo).ok())
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_EQ(connected.Call(kGetServerInfo).code, kOk);
  EXPECT_EQ(Tls(address, next.certificate(), client).Call(kGetServerInfo).code, kUnavailable);
  EXPECT_TRUE(Contains(daemon.Log(), "TLS: new files in use")) << daemon.Log();

  // What is wrong is told of and not used.
  WriteFile(files.path("key.pem"), client.key);
  while (!Contains(daemon.Log(), "does not belong to --tls-cert"))
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_EQ(Tls(address, next.certificate(), next_client).Call(kGetServerInfo).code, kOk);
  EXPECT_EQ(daemon.Stop(SIGTERM), 0);
}

// Starts a daemon that must not start; returns what it said.
std::string Refused(const Files& files, const std::string& listen = "127.0.0.1:0") {
  const testing::TempDir dir;
  std::vector<std::string> command = {testing::BinDir() + "/zerocpd", "--runtime-dir",
                                      dir.path() + "/run"};
  for (const std::string& argument : files.Arguments(listen)) command.push_back(argument);
  const testing::Ran ran = RunCommand(command);
  EXPECT_NE(ran.exit_code, 0);
  return ran.error;
}

TEST(TlsDaemonTest, AStartIsRefusedWithFileAndReason) {
  Files files;
  WriteFile(files.path("key.pem"), files.authority.Sign({}).key);
  std::string said = Refused(files);
  EXPECT_TRUE(
      Contains(said, "--tls-key " + files.path("key.pem") + ": does not belong to --tls-cert"))
      << said;
  files.Write(files.authority.Sign({.valid_to = std::chrono::seconds(-60)}));
  said = Refused(files);
  EXPECT_TRUE(Contains(said, "--tls-cert " + files.path("cert.pem"))) << said;
  EXPECT_TRUE(Contains(said, "has expired on ")) << said;
  unlink(files.path("ca.pem").c_str());
  said = Refused(files);
  EXPECT_TRUE(Contains(said, "--tls-ca " + files.path("ca.pem") + ": No such file")) << said;
}

TEST(TlsDaemonTest, TwoDaemonsCannotHaveOnePort) {
  Files files;
  testing::DaemonProcess daemon(files.Arguments());
  const std::string address = AddressIn(daemon.Log());
  const std::string said = Refused(files, address);
  EXPECT_TRUE(Contains(said, "cannot listen on " + address + ": Address already in use")) << said;
  EXPECT_EQ(Tls(address, files.authority.certificate(),
                files.authority.Sign({.names = "URI:spiffe://test/admin"}))
                .Call(kGetServerInfo)
                .code,
            kOk);
}

}  // namespace
}  // namespace zerocp
