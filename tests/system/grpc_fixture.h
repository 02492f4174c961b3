// The daemon's two gRPC servers in this process, over real sockets, with a fake session directory;
// and a caller that knows every method by name and speaks JSON, as grpcurl does.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "google/rpc/error_details.pb.h"
#include "server/error.h"
#include "server/grpc_server.h"
#include "server/session_manager.h"
#include "tests/unit/server/test_instance.h"

namespace grpc {
class Channel;
}

namespace zerocp {

// grpc::StatusCode.
inline constexpr int kOk = 0;
inline constexpr int kInvalidArgument = 3;
inline constexpr int kDeadlineExceeded = 4;
inline constexpr int kNotFound = 5;
inline constexpr int kAlreadyExists = 6;
inline constexpr int kPermissionDenied = 7;
inline constexpr int kResourceExhausted = 8;
inline constexpr int kFailedPrecondition = 9;
inline constexpr int kAborted = 10;
inline constexpr int kUnimplemented = 12;
inline constexpr int kInternal = 13;
inline constexpr int kUnavailable = 14;

// In a request of CreateSession, as this library's clients say it.
inline const std::string kLayout = "\"layoutVersion\":" + std::to_string(shm::kLayoutVersion);

inline constexpr char kCreatePool[] = "zerocp.v1.AdminService/CreatePool";
inline constexpr char kUpdatePool[] = "zerocp.v1.AdminService/UpdatePool";
inline constexpr char kDeletePool[] = "zerocp.v1.AdminService/DeletePool";
inline constexpr char kCreateChannel[] = "zerocp.v1.AdminService/CreateChannel";
inline constexpr char kDeleteChannel[] = "zerocp.v1.AdminService/DeleteChannel";
inline constexpr char kApplyConfig[] = "zerocp.v1.AdminService/ApplyConfig";
inline constexpr char kTerminateSession[] = "zerocp.v1.AdminService/TerminateSession";
inline constexpr char kAudit[] = "zerocp.v1.AdminService/Audit";
inline constexpr char kGetServerInfo[] = "zerocp.v1.ObserverService/GetServerInfo";
inline constexpr char kGetPool[] = "zerocp.v1.ObserverService/GetPool";
inline constexpr char kListPools[] = "zerocp.v1.ObserverService/ListPools";
inline constexpr char kGetChannel[] = "zerocp.v1.ObserverService/GetChannel";
inline constexpr char kListChannels[] = "zerocp.v1.ObserverService/ListChannels";
inline constexpr char kListSessions[] = "zerocp.v1.ObserverService/ListSessions";
inline constexpr char kListHeldChunks[] = "zerocp.v1.ObserverService/ListHeldChunks";
inline constexpr char kGetStats[] = "zerocp.v1.ObserverService/GetStats";
inline constexpr char kCreateSession[] = "zerocp.v1.SessionService/CreateSession";
inline constexpr char kHealthCheck[] = "grpc.health.v1.Health/Check";

// What a call came to.
struct Outcome {
  int code = -1;  // grpc::StatusCode
  std::string message;
  std::string json;  // the response, default values included; empty if there is none
  google::rpc::ErrorInfo info;
  std::vector<std::string> fields;  // of the BadRequest
  int details_size = 0;
  std::string request_id;   // of the RequestInfo
  size_t status_bytes = 0;  // of the serialized google.rpc.Status

  bool ok() const { return code == 0; }
  std::string reason() const { return info.reason(); }
};

// Calls `method` ("zerocp.v1.AdminService/CreatePool") with a request in JSON.
class Caller {
 public:
  explicit Caller(const std::string& socket_path);
  explicit Caller(std::shared_ptr<grpc::Channel> channel) : channel_(std::move(channel)) {}
  Outcome Call(const std::string& method, const std::string& json = "{}",
               std::chrono::milliseconds timeout = std::chrono::seconds(30)) const;
  // With a request of any bytes; the response is not decoded.
  Outcome CallBytes(const std::string& method, const std::string& bytes,
                    std::chrono::milliseconds timeout = std::chrono::seconds(30)) const;

 private:
  Outcome Exchange(const std::string& method, const std::string& request, std::string* response,
                   std::chrono::milliseconds timeout) const;

  std::shared_ptr<grpc::Channel> channel_;
};

// Keeps sessions in a list; makes the errors that the real one makes.
class FakeSessions : public SessionDirectory {
 public:
  absl::StatusOr<CreatedSession> Create(const std::string& client_name, int32_t layout_version,
                                        std::optional<uid_t> peer_uid, bool read_only) override;
  // Those that are there never end: the call waits until the server stops.
  void Terminate(const std::string& name, const std::string& caller, bool kill,
                 std::chrono::milliseconds patience, Terminated done) override;
  void AbandonTerminations() override;
  std::vector<SessionInfo> List() override;
  std::vector<SessionInfo> ListWithHeld() override { return List(); }
  uint64_t recovered_session_count() override { return 7; }
  std::string attach_socket() const override { return "/run/test/attach.sock"; }

  // Called by Create first, without a lock.
  std::function<absl::Status()> before_create = [] { return absl::OkStatus(); };

 private:
  std::mutex mutex_;
  std::vector<SessionInfo> sessions_;
  std::vector<Terminated> terminations_;
};

class ControlPlane {
 public:
  // `ready`: calls are answered; else they wait for server->SetReady().
  explicit ControlPlane(bool ready = true, std::optional<TlsEndpoint> tls = std::nullopt);
  ~ControlPlane();
  ControlPlane(const ControlPlane&) = delete;
  ControlPlane& operator=(const ControlPlane&) = delete;

  Caller Admin() const { return Caller(directory_ + "/admin.sock"); }
  Caller Client() const { return Caller(directory_ + "/client.sock"); }
  std::string config_path() const { return directory_ + "/zerocp.yaml"; }
  std::string client_socket() const { return directory_ + "/client.sock"; }

  TestInstance instance;
  FakeSessions sessions;
  shm::SessionSet dead;  // what the cleaner hears of
  Cleaner cleaner{instance.core, sessions, [this](bool) { return dead; }};
  RpcMetrics rpc_metrics;
  std::unique_ptr<ConfigFile> config_file;  // config_path()
  std::unique_ptr<ConfigManager> config;    // with a journal beside that
  std::unique_ptr<GrpcServer> server;

 private:
  std::string directory_;
};

// A control plane with one pool, "video", and one channel on it, "frames".
class RpcTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(plane.instance.pools.Create(Spec("video", 4096, 16)).ok());
    ASSERT_TRUE(plane.instance.channels.Create({"frames", "video", 0, ""}).ok());
  }
  void ExpectAlive() {
    const Outcome info = admin.Call(kGetServerInfo);
    EXPECT_EQ(info.code, kOk) << info.message;
    EXPECT_TRUE(plane.instance.channels.Audit().violations.empty());
  }

  ControlPlane plane;
  const Caller admin = plane.Admin();
  const Caller client = plane.Client();
};

inline bool Contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace zerocp
