#include "client/cli/daemon_command.h"

#include <google/protobuf/util/json_util.h>
#include <google/protobuf/util/time_util.h>
#include <grpcpp/grpcpp.h>
#include <sys/socket.h>

#include <cctype>
#include <chrono>
#include <cstdio>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "client/cli/exit_code.h"
#include "client/cli/table.h"
#include "client/internal/find_daemon.h"
#include "shm/runtime_dir.h"
#include "zerocp/v1/admin_service.grpc.pb.h"
#include "zerocp/v1/observer_service.grpc.pb.h"

namespace zerocp::cli {
namespace {

using google::protobuf::Message;
using google::protobuf::Timestamp;
using google::protobuf::util::TimeUtil;

int Failed(ExitCode code, const std::string& what) {
  std::fprintf(stderr, "zerocp: %s\n", what.c_str());
  return code;
}

void Print(const std::string& text) { std::fwrite(text.data(), 1, text.size(), stdout); }

int PrintJson(const Message& message) {
  google::protobuf::util::JsonPrintOptions options;
  options.add_whitespace = true;
  options.always_print_primitive_fields = true;
  options.preserve_proto_field_names = true;  // as grpcurl prints them
  std::string text;
  if (!google::protobuf::util::MessageToJsonString(message, &text, options).ok()) {
    return Failed(kFailed, "the answer cannot be written as JSON");
  }
  Print(text);
  return kDone;
}

// "pools/video" -> "video".
std::string IdOf(const std::string& name) { return name.substr(name.rfind('/') + 1); }

std::string TimeOf(const Timestamp& time) {
  Timestamp seconds;
  seconds.set_seconds(time.seconds());
  return TimeUtil::ToString(seconds);
}

template <class Number>
std::string N(Number number) {
  return std::to_string(number);
}

// A service of the daemon at one of its sockets.
template <class Service>
class Caller {
 public:
  Caller(const DaemonOptions& options, const char* socket) : options_(options) {
    auto found = internal::FindDaemon(options.runtime_dir, socket, SOCK_STREAM);
    if (!found.ok()) {
      exit_code_ = Failed(kNotReachable, found.status().message());
      return;
    }
    path_ = found->path;
    stub_ =
        Service::NewStub(grpc::CreateChannel("unix:" + path_, grpc::InsecureChannelCredentials()));
  }

  // False: exit_code() says what to return; the reason is printed.
  template <class Request, class Response>
  bool Call(grpc::Status (Service::Stub::*method)(grpc::ClientContext*, const Request&, Response*),
            const Request& request, Response* response) {
    if (stub_ == nullptr) return false;
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() +
                         std::chrono::duration_cast<std::chrono::system_clock::duration>(
                             std::chrono::duration<double>(options_.timeout_s)));
    const grpc::Status status = (stub_.get()->*method)(&context, request, response);
    if (status.ok()) return true;
    const bool absent = status.error_code() == grpc::StatusCode::UNAVAILABLE ||
                        status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED;
    exit_code_ = Failed(absent ? kNotReachable : kFailed,
                        "the daemon at " + path_ + (absent ? " does not answer: " : " says: ") +
                            status.error_message());
    return false;
  }
  int exit_code() const { return exit_code_; }

 private:
  const DaemonOptions& options_;
  std::string path_;
  std::unique_ptr<typename Service::Stub> stub_;
  int exit_code_ = kDone;
};

using Observer = v1::ObserverService;
using Admin = v1::AdminService;

// Gets all pages and merges them into one.
template <class Request, class Response>
bool CallPaged(Caller<Observer>& observer,
               grpc::Status (Observer::Stub::*method)(grpc::ClientContext*, const Request&,
                                                      Response*),
               Response* all) {
  Request request;
  do {
    Response page;
    if (!observer.Call(method, request, &page)) return false;
    request.set_page_token(page.next_page_token());
    all->MergeFrom(page);
  } while (!request.page_token().empty());
  all->clear_next_page_token();
  return true;
}

std::string PoolStatsTable(const google::protobuf::RepeatedPtrField<v1::PoolStats>& pools) {
  Table table({"POOL", ">CHUNKS", ">FREE", ">CACHED", ">WRITING", ">SHARED"});
  for (const v1::PoolStats& pool : pools) {
    table.Add({IdOf(pool.pool()), N(pool.chunk_count()), N(pool.free_chunk_count()),
               N(pool.cached_chunk_count()), N(pool.writing_chunk_count()),
               N(pool.shared_chunk_count())});
  }
  return table.ToString();
}

// "attached" for STATE_ATTACHED.
std::string StateOf(v1::Session::State state) {
  std::string name = v1::Session::State_Name(state);
  constexpr std::string_view kPrefix = "STATE_";
  if (name.starts_with(kPrefix)) name.erase(0, kPrefix.size());
  for (char& c : name) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return name;
}

void PrintStats(const v1::Stats& stats) {
  Print(PoolStatsTable(stats.pools()) + "\n");
  Table channels({"CHANNEL", ">PUBLISHERS", ">PUBLISHED", ">SUBSCRIBERS"});
  Table subscribers({"SUBSCRIBER", "SESSION", "CLIENT", ">QUEUED", ">CAPACITY"});
  for (const v1::ChannelStats& channel : stats.channels()) {
    channels.Add({IdOf(channel.channel()), N(channel.publisher_count()),
                  N(channel.published_count()), N(channel.subscribers_size())});
    for (const v1::SubscriberStats& subscriber : channel.subscribers()) {
      subscribers.Add({subscriber.subscriber(), IdOf(subscriber.session()),
                       subscriber.client_name(), N(subscriber.queued_count()),
                       N(subscriber.queue_capacity())});
    }
  }
  Print(channels.ToString() + "\n" + subscribers.ToString() + "\n");
  Table segments({"SEGMENT", ">SIZE", ">AVAILABLE"});
  for (const v1::Segment& segment : stats.segments()) {
    segments.Add({segment.shm_name(), FormatBytes(segment.size_bytes()),
                  FormatBytes(segment.free_size_bytes())});
  }
  Print(segments.ToString() + "\nsessions: " + N(stats.attached_session_count()) + " attached");
  if (stats.has_start_time()) {
    Print(", " + N(stats.recovered_session_count()) + " recovered after death since " +
          TimeOf(stats.start_time()));
  }
  Print("\n");
}

}  // namespace

int Pools(const DaemonOptions& options) {
  Caller<Observer> observer(options, shm::kClientSocket);
  v1::ListPoolsResponse response;
  if (!observer.Call(&Observer::Stub::ListPools, v1::ListPoolsRequest(), &response)) {
    return observer.exit_code();
  }
  if (options.json) return PrintJson(response);
  Table table({"POOL", ">CHUNK SIZE", ">ALIGNMENT", ">CHUNKS", ">MAX CHUNKS", "GROWS",
               ">MAX HOLDERS", "STATE", "CREATED"});
  for (const v1::Pool& pool : response.pools()) {
    table.Add({IdOf(pool.name()), FormatBytes(pool.chunk_size_bytes()),
               FormatBytes(pool.chunk_alignment_bytes()), N(pool.chunk_count()),
               N(pool.max_chunk_count()), pool.auto_grow() ? "by itself" : "by UpdatePool",
               N(pool.max_holders_per_chunk()),
               pool.state() == v1::Pool::STATE_DRAINING ? "draining" : "active",
               TimeOf(pool.create_time())});
  }
  Print(table.ToString());
  return kDone;
}

int Channels(const DaemonOptions& options) {
  Caller<Observer> observer(options, shm::kClientSocket);
  v1::ListChannelsResponse response;
  if (!CallPaged<v1::ListChannelsRequest>(observer, &Observer::Stub::ListChannels, &response)) {
    return observer.exit_code();
  }
  if (options.json) return PrintJson(response);
  Table table({"CHANNEL", "POOL", "WHEN FULL", ">QUEUE", ">MAX HELD", ">HISTORY",
               ">MAX SUBSCRIBERS", "MESSAGE TYPE"});
  for (const v1::Channel& channel : response.channels()) {
    const bool waits = channel.when_full() == v1::Channel::WHEN_FULL_WAIT;
    table.Add({IdOf(channel.name()), IdOf(channel.pool()), waits ? "wait" : "drop",
               N(channel.queue_capacity()),
               channel.max_held_count() == 0 ? "-" : N(channel.max_held_count()),
               channel.history_count() == 0 ? "-" : N(channel.history_count()),
               N(channel.max_subscriber_count()), channel.message_type()});
  }
  Print(table.ToString());
  return kDone;
}

int Sessions(const DaemonOptions& options) {
  Caller<Observer> observer(options, shm::kClientSocket);
  v1::ListSessionsResponse response;
  if (!CallPaged<v1::ListSessionsRequest>(observer, &Observer::Stub::ListSessions, &response)) {
    return observer.exit_code();
  }
  if (options.json) return PrintJson(response);
  Table table({"SESSION", "CLIENT", "STATE", "ACCESS", ">PID", ">UID", ">CHUNKS HELD", "ATTACHED"});
  for (const v1::Session& session : response.sessions()) {
    table.Add(
        {IdOf(session.name()), session.client_name(), StateOf(session.state()),
         session.payload_access() == v1::PAYLOAD_ACCESS_READ_ONLY ? "read-only" : "read-write",
         N(session.peer_pid()), session.has_peer_user_id() ? N(session.peer_user_id()) : "",
         N(session.held_chunk_count()),
         session.has_attach_time() ? TimeOf(session.attach_time()) : ""});
  }
  Print(table.ToString());
  return kDone;
}

int Stats(const DaemonOptions& options) {
  Caller<Observer> observer(options, shm::kClientSocket);
  v1::GetStatsResponse response;
  if (!observer.Call(&Observer::Stub::GetStats, v1::GetStatsRequest(), &response)) {
    return observer.exit_code();
  }
  return ShowStats(response, options.json);
}

int ShowStats(const v1::GetStatsResponse& response, bool json) {
  if (json) return PrintJson(response);
  PrintStats(response.stats());
  return kDone;
}

int Info(const DaemonOptions& options) {
  Caller<Observer> observer(options, shm::kClientSocket);
  v1::GetServerInfoResponse response;
  if (!observer.Call(&Observer::Stub::GetServerInfo, v1::GetServerInfoRequest(), &response)) {
    return observer.exit_code();
  }
  if (options.json) return PrintJson(response);
  Table table({"zerocpd", response.version()});
  table.Add({"commit", response.git_commit()});
  table.Add({"pid", N(response.pid())});
  table.Add(
      {"instance", response.instance_name().empty() ? "(default)" : response.instance_name()});
  table.Add({"instance id", response.instance_id()});
  table.Add({"started", TimeOf(response.start_time())});
  table.Add({"memory layout", N(response.layout_version())});
  table.Add({"segment directory", response.segment_dir()});
  table.Add({"management addresses", FormatBytes(response.management_reserved_bytes())});
  table.Add({"chunk addresses", FormatBytes(response.chunk_reserved_bytes())});
  table.Add({"most sessions", N(response.max_session_count())});
  table.Add({"gRPC", response.grpc_version()});
  Print(table.ToString());
  return kDone;
}

int Audit(const DaemonOptions& options) {
  Caller<Admin> admin(options, shm::kAdminSocket);
  v1::AuditResponse response;
  if (!admin.Call(&Admin::Stub::Audit, v1::AuditRequest(), &response)) return admin.exit_code();
  const int code = response.violation_count() == 0 ? kDone : kFailed;
  if (options.json) return PrintJson(response) == kDone ? code : kFailed;
  Print(PoolStatsTable(response.pools()) + "\n");
  for (const auto& violation : response.violations()) {
    Print(violation.invariant() + ": " + violation.detail() + "\n");
  }
  Print(N(response.checked_chunk_count()) + " chunks checked, " + N(response.violation_count()) +
        " violations\n");
  return code;
}

}  // namespace zerocp::cli
