#include "tests/kill/grpc_torture_operator.h"

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <chrono>
#include <utility>
#include <vector>

#include "tests/kill/torture_page.h"

namespace zerocp::torture {
namespace {

using Admin = v1::AdminService::Stub;
using Observer = v1::ObserverService::Stub;

constexpr std::chrono::seconds kPatience{60};
constexpr char kChurnName[] = "pools/churn";

void ExpectOk(const grpc::Status& status, const char* what) {
  EXPECT_TRUE(status.ok()) << what << ": " << status.error_message();
}

}  // namespace

Operator::Operator(std::string socket) : socket_(std::move(socket)) { Connect(); }
Operator::~Operator() = default;

void Operator::Connect() {
  grpc::ChannelArguments arguments;  // a connection of its own: none that waits to try again
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  auto channel =
      grpc::CreateCustomChannel("unix:" + socket_, grpc::InsecureChannelCredentials(), arguments);
  admin_ = v1::AdminService::NewStub(channel);
  observer_ = v1::ObserverService::NewStub(channel);
}

void Operator::Disconnect() {
  admin_.reset();
  observer_.reset();
}

template <class Stub, class Request, class Response>
grpc::Status Operator::Call(Stub& stub,
                            grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&,
                                                         Response*),
                            const Request& request, Response* response) {
  grpc::ClientContext context;
  context.set_wait_for_ready(true);
  context.set_deadline(std::chrono::system_clock::now() + kPatience);
  return (stub.*method)(&context, request, response);
}

Operator::PoolStep Operator::ChurnPool(std::mt19937_64& random) {
  v1::GetPoolRequest get;
  get.set_name(kChurnName);
  v1::GetPoolResponse there;
  const grpc::Status found = Call(*observer_, &Observer::GetPool, get, &there);
  if (!churn_is_there_) {
    if (found.ok()) return PoolStep::kNone;  // somebody still has a chunk of it
    EXPECT_EQ(found.error_code(), grpc::StatusCode::NOT_FOUND) << found.error_message();
    // With that many, threads keep chunks in caches that others may not take them from.
    const int64_t count = random() % 2 == 0 ? 4096 : 16;
    v1::CreatePoolRequest request;
    request.set_pool_id("churn");
    request.mutable_pool()->set_chunk_size_bytes(256);
    request.mutable_pool()->set_chunk_count(count);
    request.mutable_pool()->set_max_chunk_count(count * 2);
    request.mutable_pool()->set_auto_grow(random() % 2 == 0);
    v1::CreatePoolResponse response;
    ExpectOk(Call(*admin_, &Admin::CreatePool, request, &response), "CreatePool");
    churn_is_there_ = true;
    return PoolStep::kCreated;
  }
  ExpectOk(found, "GetPool");
  if (random() % 3 == 0) {
    v1::DeletePoolRequest request;
    request.set_name(kChurnName);
    request.set_drain(true);
    v1::DeletePoolResponse response;
    ExpectOk(Call(*admin_, &Admin::DeletePool, request, &response), "DeletePool");
    churn_is_there_ = false;
    return PoolStep::kDeleted;
  }
  const v1::Pool& pool = there.pool();
  if (pool.chunk_count() == pool.max_chunk_count()) return PoolStep::kNone;
  v1::UpdatePoolRequest request;
  request.mutable_pool()->set_name(kChurnName);
  request.mutable_pool()->set_chunk_count(pool.chunk_count() + 1);
  v1::UpdatePoolResponse response;
  const grpc::Status grown = Call(*admin_, &Admin::UpdatePool, request, &response);
  if (!grown.ok() && pool.auto_grow()) return PoolStep::kNone;  // it was faster
  ExpectOk(grown, "UpdatePool");
  return PoolStep::kGrown;
}

void Operator::ChurnChannel() {
  if (fleeting_is_there_) {
    v1::DeleteChannelRequest request;
    request.set_name("channels/fleeting");
    request.set_even_if_in_use(true);
    v1::DeleteChannelResponse response;
    ExpectOk(Call(*admin_, &Admin::DeleteChannel, request, &response), "DeleteChannel");
  } else {
    v1::CreateChannelRequest request;
    request.set_channel_id("fleeting");
    request.mutable_channel()->set_pool("pools/large");
    request.mutable_channel()->set_when_full(v1::Channel::WHEN_FULL_WAIT);
    request.mutable_channel()->set_queue_capacity(8);
    request.mutable_channel()->set_history_count(kChannels[kFleeting].history);
    v1::CreateChannelResponse response;
    ExpectOk(Call(*admin_, &Admin::CreateChannel, request, &response), "CreateChannel");
  }
  fleeting_is_there_ = !fleeting_is_there_;
}

bool Operator::TerminateSessionOf(int32_t process) {
  v1::ListSessionsResponse sessions;
  ExpectOk(Call(*observer_, &Observer::ListSessions, v1::ListSessionsRequest(), &sessions),
           "ListSessions");
  for (const v1::Session& session : sessions.sessions()) {
    if (session.peer_pid() != process || session.state() != v1::Session::STATE_ATTACHED) continue;
    v1::TerminateSessionRequest request;
    request.set_name(session.name());
    v1::TerminateSessionResponse response;
    const grpc::Status status = Call(*admin_, &Admin::TerminateSession, request, &response);
    if (status.error_code() != grpc::StatusCode::DEADLINE_EXCEEDED)
      ExpectOk(status, "TerminateSession");
    return true;
  }
  return false;
}

bool Operator::DetachSubscriber(std::mt19937_64& random) {
  v1::GetStatsResponse stats;
  ExpectOk(Call(*observer_, &Observer::GetStats, v1::GetStatsRequest(), &stats), "GetStats");
  std::vector<std::string> names;
  for (const v1::ChannelStats& channel : stats.stats().channels())
    for (const v1::SubscriberStats& subscriber : channel.subscribers())
      names.push_back(subscriber.subscriber());
  if (names.empty()) return false;
  v1::DetachSubscriberRequest request;
  request.set_name(names[random() % names.size()]);
  v1::DetachSubscriberResponse response;
  const grpc::Status status = Call(*admin_, &Admin::DetachSubscriber, request, &response);
  if (status.error_code() == grpc::StatusCode::NOT_FOUND) return false;  // it has just left
  ExpectOk(status, "DetachSubscriber");
  return true;
}

std::optional<std::map<int32_t, std::string>> Operator::SessionsOf(
    const std::set<int32_t>& processes) {
  v1::ListSessionsResponse sessions;
  ExpectOk(Call(*observer_, &Observer::ListSessions, v1::ListSessionsRequest(), &sessions),
           "ListSessions");
  std::map<int32_t, std::string> names;
  for (const v1::Session& session : sessions.sessions()) {
    if (session.state() != v1::Session::STATE_ATTACHED || processes.count(session.peer_pid()) == 0)
      return std::nullopt;
    names[session.peer_pid()] = session.name();
  }
  if (names.size() != processes.size()) return std::nullopt;
  return names;
}

Holdings Operator::Census() {
  v1::ListHeldChunksResponse held;
  ExpectOk(Call(*observer_, &Observer::ListHeldChunks, v1::ListHeldChunksRequest(), &held),
           "ListHeldChunks");
  Holdings found;
  for (const v1::HolderSummary& holder : held.holders()) {
    const std::string phase = v1::HeldChunk::Phase_Name(holder.phase());
    if (holder.phase() == v1::HeldChunk::PHASE_CACHED) continue;
    found[holder.phase() == v1::HeldChunk::PHASE_HISTORY
              ? Holdings::key_type("", "", kHistory)
              : Holdings::key_type(holder.holder(), holder.pool(), phase)] += holder.chunk_count();
  }
  return found;
}

void Operator::ExpectAuditClean() {
  v1::AuditResponse audit;
  ExpectOk(Call(*admin_, &Admin::Audit, v1::AuditRequest(), &audit), "Audit");
  for (const auto& violation : audit.violations())
    ADD_FAILURE() << violation.invariant() << ": " << violation.detail();
}

}  // namespace zerocp::torture
