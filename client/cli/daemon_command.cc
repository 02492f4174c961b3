#include "client/cli/daemon_command.h"

#include <google/protobuf/util/time_util.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <span>
#include <string>
#include <tuple>
#include <vector>

#include "client/cli/daemon_caller.h"
#include "client/cli/exit_code.h"
#include "client/cli/table.h"
#include "shm/mutant.h"
#include "shm/runtime_dir.h"
#include "zerocp/v1/admin_service.grpc.pb.h"
#include "zerocp/v1/observer_service.grpc.pb.h"

namespace zerocp::cli {
namespace {

template <class Number>
std::string N(Number number) {
  return std::to_string(number);
}

using Observer = v1::ObserverService;
using Admin = v1::AdminService;

// Gets all pages and merges them into one.
template <class Request, class Response>
bool CallPaged(DaemonCaller<Observer>& observer,
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

// "12.3 s"; "-" for none.
std::string DurationText(const google::protobuf::Duration& duration) {
  const int64_t tenths = duration.seconds() * 10 + duration.nanos() / 100'000'000;
  return tenths == 0 ? "-" : N(tenths / 10) + "." + N(tenths % 10) + " s";
}

// Those of all channels: who has taken nothing for the longest time first, then the longest queue.
std::string SubscriberTable(const v1::Stats& stats) {
  std::vector<const v1::SubscriberStats*> subscribers;
  for (const v1::ChannelStats& channel : stats.channels())
    for (const v1::SubscriberStats& subscriber : channel.subscribers())
      subscribers.push_back(&subscriber);
  const auto slowness = [](const v1::SubscriberStats& s) {
    return std::tuple(s.stalled_for().seconds(), s.stalled_for().nanos(), s.queued_count());
  };
  std::stable_sort(subscribers.begin(), subscribers.end(), [&](const auto* a, const auto* b) {
    return !Mutant(31) && slowness(*a) > slowness(*b);
  });
  Table table({"SUBSCRIBER", "SESSION", "CLIENT", ">QUEUED", ">CAPACITY", ">HELD", ">TAKEN",
               ">MISSED", ">STALLED"});
  for (const v1::SubscriberStats* s : subscribers) {
    table.Add({s->subscriber(), IdOf(s->session()), s->client_name(), N(s->queued_count()),
               N(s->queue_capacity()), N(s->held_count()), N(s->taken_count()),
               N(s->missed_count()), DurationText(s->stalled_for())});
  }
  return table.ToString();
}

std::string StatsText(const v1::Stats& stats) {
  std::string text = PoolStatsTable(stats.pools()) + "\n";
  Table channels({"CHANNEL", ">PUBLISHERS", ">PUBLISHED", ">SUBSCRIBERS"});
  for (const v1::ChannelStats& channel : stats.channels()) {
    channels.Add({IdOf(channel.channel()), N(channel.publisher_count()),
                  N(channel.published_count()), N(channel.subscribers_size())});
  }
  text += channels.ToString() + "\n" + SubscriberTable(stats) + "\n";
  Table segments({"SEGMENT", ">SIZE", ">AVAILABLE"});
  for (const v1::Segment& segment : stats.segments()) {
    segments.Add({segment.shm_name(), FormatBytes(segment.size_bytes()),
                  FormatBytes(segment.free_size_bytes())});
  }
  text += segments.ToString() + "\nsessions: " + N(stats.attached_session_count()) + " attached";
  if (stats.orphaned_session_count() != 0) {
    text += ", " + N(stats.orphaned_session_count()) +
            " orphaned (no connection to a daemon; what they hold stays)";
  }
  if (stats.has_start_time()) {
    text += ", " + N(stats.recovered_session_count()) + " recovered after death since " +
            TimeOf(stats.start_time());
  }
  return text + "\n";
}

}  // namespace

int Pools(const DaemonOptions& options) {
  DaemonCaller<Observer> observer(options, shm::kClientSocket);
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
               WordOf(v1::Pool::State_Name(pool.state()), "STATE_", pool.state()),
               pool.has_create_time() ? TimeOf(pool.create_time()) : ""});
  }
  Print(table.ToString());
  return kDone;
}

int Channels(const DaemonOptions& options) {
  DaemonCaller<Observer> observer(options, shm::kClientSocket);
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
  DaemonCaller<Observer> observer(options, shm::kClientSocket);
  v1::ListSessionsResponse response;
  if (!CallPaged<v1::ListSessionsRequest>(observer, &Observer::Stub::ListSessions, &response)) {
    return observer.exit_code();
  }
  if (options.json) return PrintJson(response);
  Table table({"SESSION", "CLIENT", "STATE", "ACCESS", ">PID", ">UID", ">CHUNKS HELD", "ATTACHED"});
  for (const v1::Session& session : response.sessions()) {
    table.Add(
        {IdOf(session.name()), session.client_name(),
         WordOf(v1::Session::State_Name(session.state()), "STATE_", session.state()),
         session.payload_access() == v1::PAYLOAD_ACCESS_READ_ONLY ? "read-only" : "read-write",
         N(session.peer_pid()), session.has_peer_user_id() ? N(session.peer_user_id()) : "",
         N(session.held_chunk_count()),
         session.has_attach_time() ? TimeOf(session.attach_time()) : ""});
  }
  Print(table.ToString());
  return kDone;
}

int Stats(const DaemonOptions& options) {
  DaemonCaller<Observer> observer(options, shm::kClientSocket);
  v1::GetStatsResponse response;
  if (!observer.Call(&Observer::Stub::GetStats, v1::GetStatsRequest(), &response)) {
    return observer.exit_code();
  }
  return ShowStats(response, options.json);
}

int WatchStats(const DaemonOptions& options, double interval_s) {
  CatchStopSignals();
  DaemonCaller<Observer> observer(options, shm::kClientSocket);
  if (observer.stub() == nullptr) return observer.exit_code();
  v1::WatchStatsRequest request;
  *request.mutable_interval() = google::protobuf::util::TimeUtil::MillisecondsToDuration(
      static_cast<int64_t>(interval_s * 1000));
  bool first = true;
  bool failed = false;
  const auto fail = [&](const std::string& why) {
    failed = true;
    return Failed(kFailed, why) == kDone;
  };
  const auto show = [&](const v1::WatchStatsResponse& update) {
    std::string text;
    if (options.json) {
      if (!ToJson(update, /*one_line=*/true, &text))
        return fail("the numbers cannot be written as JSON");
      text += "\n";
    } else {
      text = (first ? "" : "\n") + PreciseTimeOf(update.stats().read_time());
      if (const int64_t skipped = update.skipped_update_count(); skipped > 0)
        text += ", " + N(skipped) + " updates before it were not read in time";
      text += "\n" + StatsText(update.stats());
    }
    first = false;
    // At a signal to stop the rest is left.
    return WriteAll(STDOUT_FILENO, std::as_bytes(std::span(text))) || StopSignal() != 0 ||
           fail(WriteErrorText(errno));
  };
  grpc::ClientContext context;
  const grpc::Status status = ReadStream<v1::WatchStatsResponse>(
      context,
      [&](grpc::ClientContext* call, grpc::CompletionQueue* queue) {
        return observer.stub()->AsyncWatchStats(call, request, queue, nullptr);
      },
      show, [&] { return !failed && (!ReaderIsGone() || fail(WriteErrorText(EPIPE))); });
  if (failed) return kFailed;
  if (StopSignal() != 0) return kDone;
  observer.Fail(status);
  return observer.exit_code();
}

int ShowStats(const v1::GetStatsResponse& response, bool json) {
  if (json) return PrintJson(response);
  Print(StatsText(response.stats()));
  return kDone;
}

int Info(const DaemonOptions& options) {
  DaemonCaller<Observer> observer(options, shm::kClientSocket);
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
  table.Add({"most chunks of a session", response.max_chunks_per_session() == 0
                                             ? "not limited"
                                             : N(response.max_chunks_per_session())});
  table.Add({"gRPC", response.grpc_version()});
  Print(table.ToString());
  return kDone;
}

int Cleanup(const DaemonOptions& options, bool execute) {
  DaemonCaller<Admin> admin(options, shm::kAdminSocket);
  v1::CleanupRequest request;
  request.set_execute(execute);
  v1::CleanupResponse response;
  if (!admin.Call(&Admin::Stub::Cleanup, request, &response)) return admin.exit_code();
  if (options.json) return PrintJson(response);
  if (response.removed_count() == 0) {
    Print("nothing is left behind\n");
    return kDone;
  }
  Table table({"KIND", "NAME", "REASON"});
  for (const auto& item : response.items()) {
    table.Add({WordOf(v1::CleanupRequest::Kind_Name(item.kind()), "KIND_", item.kind()),
               item.name(), item.reason()});
  }
  std::string text = table.ToString();
  if (response.items_size() < response.removed_count())
    text += "and " + N(response.removed_count() - response.items_size()) + " more\n";
  text += execute ? N(response.removed_count()) + " removed"
                  : N(response.removed_count()) + " would be removed with --execute";
  Print(text + ", with " + N(response.chunk_count()) + " chunks of dead sessions\n");
  return kDone;
}

int Audit(const DaemonOptions& options) {
  DaemonCaller<Admin> admin(options, shm::kAdminSocket);
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
