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
std::vector<Subject> BesideEmpty(const std::function<void()>& operation,
                                 const std::function<void()>& between, const char* against,
                                 int empty_calls) {
  const auto server = std::make_shared<EmptyServer>();
  return {{"zerocp", 2, 0,
           [operation, between] {
             const double time = MedianNs(operation, kCallsOfRound);
             between();
             return std::vector{time};
           }},
          {against, 2, 0, [server, empty_calls] {
             return std::vector{MedianNs(
                 [&] {
                   for (int i = 0; i < empty_calls; ++i) server->Call();
                 },
                 kCallsOfRound)};
           }}};
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

std::vector<Subject> GetStats(const Site& site) {
  const std::shared_ptr stub =
      v1::ObserverService::NewStub(Open(site.daemon.socket("client.sock")));
  const auto call = [stub] {
    grpc::ClientContext context;
    v1::GetStatsResponse response;
    MustBeOk(stub->GetStats(&context, {}, &response), "GetStats");
  };
  return BesideEmpty(
      call, [] {}, "empty RPC", 1);
}

std::vector<Subject> CreateSession(const Site& site) {
  struct State {
    std::unique_ptr<v1::SessionService::Stub> sessions;
    std::unique_ptr<v1::AdminService::Stub> admin;
    std::vector<std::string> created;
  };
  const auto channel = Open(site.daemon.socket("admin.sock"));
  const auto state = std::make_shared<State>();
  state->sessions = v1::SessionService::NewStub(channel);
  state->admin = v1::AdminService::NewStub(channel);
  v1::CreateSessionRequest request;
  request.set_client_name("bench");
  request.set_layout_version(shm::kLayoutVersion);
  const auto call = [state, request] {
    grpc::ClientContext context;
    v1::CreateSessionResponse response;
    MustBeOk(state->sessions->CreateSession(&context, request, &response), "CreateSession");
    state->created.push_back(response.session().name());
  };
  const auto end_all = [state] {
    for (const std::string& name : state->created) {
      grpc::ClientContext context;
      v1::TerminateSessionRequest end;
      v1::TerminateSessionResponse response;
      end.set_name(name);
      MustBeOk(state->admin->TerminateSession(&context, end, &response), "TerminateSession");
    }
    state->created.clear();
  };
  return BesideEmpty(call, end_all, "empty RPC", 1);
}

std::vector<Subject> AttachToLoan(const Site& site) {
  const auto attached = std::make_shared<std::vector<Client>>();
  const auto attach = [attached, runtime_dir = site.daemon.runtime_dir()] {
    attached->push_back(Must(Client::Connect({"bench", runtime_dir}), "connect"));
    (void)Must(attached->back().NewLoan("bench", 1), "loan");
  };
  return BesideEmpty(
      attach, [attached] { attached->clear(); }, "2 empty RPCs", 2);
}

}  // namespace zerocp::bench
