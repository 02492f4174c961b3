#include "tests/bench/grpc_beside_empty.h"

#include <grpcpp/grpcpp.h>
#include <zerocp/zerocp.h>

#include <chrono>
#include <filesystem>
#include <functional>
#include <memory>
#include <vector>

#include "shm/layout.h"
#include "tests/bench/must.h"
#include "tests/system/child_process.h"
#include "zerocp/v1/admin_service.grpc.pb.h"
#include "zerocp/v1/observer_service.grpc.pb.h"
#include "zerocp/v1/session_service.grpc.pb.h"

namespace zerocp::bench {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kCallsOfRound = 100;

class EmptyService final : public v1::ObserverService::CallbackService {
  grpc::ServerUnaryReactor* GetServerInfo(grpc::CallbackServerContext* call,
                                          const v1::GetServerInfoRequest*,
                                          v1::GetServerInfoResponse*) override {
    grpc::ServerUnaryReactor* reactor = call->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }
};

std::shared_ptr<grpc::Channel> Open(const std::string& socket) {
  auto channel = grpc::CreateChannel("unix:" + socket, grpc::InsecureChannelCredentials());
  if (!channel->WaitForConnected(std::chrono::system_clock::now() + std::chrono::seconds(30)))
    Die("no connection in 30 s", socket);
  return channel;
}

void MustBeOk(const grpc::Status& status, const char* what) {
  if (!status.ok()) Die(what, status.error_message());
}

class EmptyServer {
 public:
  EmptyServer()
      : process_({.command = {std::filesystem::read_symlink("/proc/self/exe"), "--empty-server",
                              dir_.path() + "/socket"}}),
        stub_(v1::ObserverService::NewStub(Open(dir_.path() + "/socket"))) {}
  void Call() {
    grpc::ClientContext context;
    v1::GetServerInfoResponse response;
    MustBeOk(stub_->GetServerInfo(&context, {}, &response), "the empty server");
  }

 private:
  const testing::TempDir dir_;
  testing::ChildProcess process_;
  const std::unique_ptr<v1::ObserverService::Stub> stub_;
};

double MedianNs(const std::function<void()>& operation, int count) {
  std::vector<double> times;
  for (int i = 0; i < count; ++i) {
    const auto start = Clock::now();
    operation();
    times.push_back(std::chrono::duration<double, std::nano>(Clock::now() - start).count());
  }
  return Quantile(times, 0.5);
}

// `between`: after each round of the subject, not measured.
Pair BesideEmpty(const char* work, const char* subject, const std::function<void()>& operation,
                 const std::function<void()>& between, const char* against, int empty_calls,
                 int rounds) {
  EmptyServer server;
  const auto empty = [&] {
    for (int i = 0; i < empty_calls; ++i) server.Call();
  };
  Pair pair{{work, subject, 2, 0, {}}, {work, against, 2, 0, {}}};
  for (int round = -1; round < rounds; ++round) {
    const double nothing = MedianNs(empty, kCallsOfRound);
    const double something = MedianNs(operation, kCallsOfRound);
    between();
    if (round < 0) continue;  // warms up
    pair.against.samples.push_back(nothing);
    pair.subject.samples.push_back(something);
  }
  return pair;
}

}  // namespace

int RunEmptyServer(const std::string& socket) {
  EmptyService service;
  grpc::ServerBuilder builder;
  builder.AddListeningPort("unix:" + socket, grpc::InsecureServerCredentials());
  builder.RegisterService(&service);
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr) return 1;
  server->Wait();
  return 0;
}

Pair GetStats(const testing::DaemonProcess& daemon, int rounds) {
  const auto stub = v1::ObserverService::NewStub(Open(daemon.socket("client.sock")));
  const auto call = [&] {
    grpc::ClientContext context;
    v1::GetStatsResponse response;
    MustBeOk(stub->GetStats(&context, {}, &response), "GetStats");
  };
  return BesideEmpty(
      "get_stats", "zerocp", call, [] {}, "empty RPC", 1, rounds);
}

Pair CreateSession(const testing::DaemonProcess& daemon, int rounds) {
  const auto channel = Open(daemon.socket("admin.sock"));
  const auto stub = v1::SessionService::NewStub(channel);
  const auto admin = v1::AdminService::NewStub(channel);
  std::vector<std::string> created;
  v1::CreateSessionRequest request;
  request.set_client_name("bench");
  request.set_layout_version(shm::kLayoutVersion);
  const auto call = [&] {
    grpc::ClientContext context;
    v1::CreateSessionResponse response;
    MustBeOk(stub->CreateSession(&context, request, &response), "CreateSession");
    created.push_back(response.session().name());
  };
  const auto end_all = [&] {
    for (const std::string& name : created) {
      grpc::ClientContext context;
      v1::TerminateSessionRequest end;
      v1::TerminateSessionResponse response;
      end.set_name(name);
      MustBeOk(admin->TerminateSession(&context, end, &response), "TerminateSession");
    }
    created.clear();
  };
  return BesideEmpty("create_session", "zerocp", call, end_all, "empty RPC", 1, rounds);
}

Pair AttachToLoan(const testing::DaemonProcess& daemon, const std::string& pool, int rounds) {
  std::vector<Client> attached;
  const auto attach = [&] {
    attached.push_back(Must(Client::Connect({"bench", daemon.runtime_dir()}), "connect"));
    (void)Must(attached.back().NewLoan(pool, 1), "loan");
  };
  return BesideEmpty(
      "attach_to_loan", "zerocp", attach, [&] { attached.clear(); }, "2 empty RPCs", 2, rounds);
}

}  // namespace zerocp::bench
