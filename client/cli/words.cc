#include "client/cli/words.h"

#include <google/protobuf/descriptor.h>

#include <algorithm>
#include <tuple>

#include "client/cli/slowness.h"
#include "shm/layout.h"
#include "zerocp/v1/admin_service.pb.h"
#include "zerocp/v1/observer_service.pb.h"

namespace zerocp::cli {
namespace {

using google::protobuf::Message;

template <class Wanted>
const Wanted& As(const Message& message) {
  return *google::protobuf::DynamicCastToGenerated<Wanted>(&message);
}

std::string N(int64_t number) { return std::to_string(number); }

const std::vector<Column> kPoolColumns{{"POOL", "name"},
                                       {"CHUNK SIZE", "chunk_size_bytes"},
                                       {"ALIGNMENT", "chunk_alignment_bytes"},
                                       {"CHUNKS", "chunk_count"},
                                       {"MAX CHUNKS", "max_chunk_count"},
                                       {"AUTO GROW", "auto_grow"},
                                       {"MAX HOLDERS", "max_holders_per_chunk"},
                                       {"STATE", "state"},
                                       {"CREATED", "create_time"}};
const std::vector<Column> kChannelColumns{{"CHANNEL", "name"},
                                          {"POOL", "pool"},
                                          {"WHEN FULL", "when_full"},
                                          {"QUEUE", "queue_capacity"},
                                          {"MAX HELD", "max_held_count", "-"},
                                          {"HISTORY", "history_count", "-"},
                                          {"MAX SUBSCRIBERS", "max_subscriber_count"},
                                          {"MESSAGE TYPE", "message_type"}};
const std::vector<Column> kPoolStatsColumns{{"POOL", "pool"},
                                            {"CHUNKS", "chunk_count"},
                                            {"FREE", "free_chunk_count"},
                                            {"CACHED", "cached_chunk_count"},
                                            {"WRITING", "writing_chunk_count"},
                                            {"SHARED", "shared_chunk_count"},
                                            {"LOW 1M", "min_free_chunk_count_1m"},
                                            {"REFUSED", "exhausted_count"}};
const std::vector<Column> kSubscriberColumns{
    {"SUBSCRIBER", "subscriber"},   {"SESSION", "session"},
    {"CLIENT", "client_name"},      {"STATE", "state"},
    {"QUEUED", "queued_count"},     {"FULLEST", "fullest_queued_count"},
    {"CAPACITY", "queue_capacity"}, {"HELD", "held_count"},
    {"TAKEN", "taken_count"},       {"MISSED", "missed_count"},
    {"STALLED", "stalled_for", "-"}};

bool Slower(const Message& a, const Message& b) {
  return IsSlower(As<v1::SubscriberStats>(a), As<v1::SubscriberStats>(b));
}
Tone ToneOfPoolStats(const Message& row) {
  const auto& pool = As<v1::PoolStats>(row);
  return pool.free_chunk_count() + pool.cached_chunk_count() == 0 ? Tone::kBad : Tone::kPlain;
}
Tone ToneOfSubscriber(const Message& row) {
  const auto& subscriber = As<v1::SubscriberStats>(row);
  if (subscriber.state() == v1::SubscriberStats::STATE_DETACHED) return Tone::kWarning;
  return subscriber.stalled_for().seconds() > 0 ? Tone::kBad : Tone::kPlain;
}
Tone ToneOfSession(const Message& row) {
  switch (As<v1::Session>(row).state()) {
    case v1::Session::STATE_PENDING:
    case v1::Session::STATE_ATTACHED:
      return Tone::kPlain;
    default:
      return Tone::kWarning;
  }
}

constexpr char kSubscriberNotes[] =
    "QUEUED is what waits for a subscriber, of all publishers; FULLEST what waits of the one of "
    "which most does:\nat CAPACITY, a publisher on a channel that waits stands still. STATE "
    "detached: taken off by an operator,\nit holds nobody up, and goes when its process calls "
    "again or ends.";

Section SubscriberSection() {
  return {"stats.channels.subscribers", kSubscriberColumns, false, Slower, ToneOfSubscriber};
}

std::string SessionsLine(const Message& /*request*/, const Message& response) {
  const v1::Stats& stats = As<v1::GetStatsResponse>(response).stats();
  std::string text = "sessions: " + N(stats.attached_session_count()) + " attached";
  if (stats.orphaned_session_count() != 0) {
    text += ", " + N(stats.orphaned_session_count()) +
            " orphaned (no connection to a daemon; what they hold stays)";
  }
  if (stats.has_start_time()) {
    text += ", " + N(stats.recovered_session_count()) + " recovered after death since " +
            TimeText(stats.start_time());
  }
  return text;
}

std::string CleanupLine(const Message& request, const Message& response) {
  const auto& answer = As<v1::CleanupResponse>(response);
  if (answer.removed_count() == 0) return "nothing is left behind";
  std::string text;
  if (answer.items_size() < answer.removed_count())
    text = "and " + N(answer.removed_count() - answer.items_size()) + " more\n";
  text +=
      N(answer.removed_count()) +
      (As<v1::CleanupRequest>(request).execute() ? " removed" : " would be removed with --execute");
  return text + ", with " + N(answer.chunk_count()) + " chunks of dead sessions";
}

std::string AuditLine(const Message& /*request*/, const Message& response) {
  const auto& answer = As<v1::AuditResponse>(response);
  return N(answer.checked_chunk_count()) + " chunks checked, " + N(answer.violation_count()) +
         " violations";
}

std::string CreatedLine(const Message& request, const Message& response) {
  const auto flag = [](const Message& message, const char* name) {
    const auto* field = message.GetDescriptor()->FindFieldByName(name);
    return message.GetReflection()->GetBool(message, field);
  };
  if (flag(request, "validate_only")) return "can be done; nothing was: --validate-only";
  return flag(response, "created") ? "created" : "was there already";
}

std::string ValidateOnlyLine(const Message& request, const Message& /*response*/) {
  const auto* field = request.GetDescriptor()->FindFieldByName("validate_only");
  return request.GetReflection()->GetBool(request, field)
             ? "can be done; nothing was: --validate-only"
             : "";
}

std::string DeletedLine(const Message& request, const Message& response) {
  std::string checked = ValidateOnlyLine(request, response);
  const auto& answer = As<v1::DeletePoolResponse>(response);
  if (!checked.empty()) return checked;
  if (!answer.has_pool()) return "there is none";
  return answer.pool().state() == v1::Pool::STATE_DRAINING
             ? "draining: nothing can be loaned, and it goes with the last chunk that is held"
             : "deleted";
}

constexpr char kValidateOnly[] = "Check everything, change nothing";
constexpr char kObserver[] = "ObserverService";
constexpr char kAdmin[] = "AdminService";
constexpr double kLongPatience_s = 300;  // memory is reserved meanwhile

std::vector<Word> PoolWords() {
  return {
      {.path = "pools",
       .about = "List the pools, or create, grow and delete one",
       .service = kObserver,
       .method = "ListPools",
       .arguments = {},
       .sections = {{"pools", kPoolColumns}},
       .examples = {"pools", "pools -o json | jq -r '.pools[].name'"}},
      {.path = "pools create",
       .about = "Create a pool of chunks of one size; returns when its memory is there",
       .service = kAdmin,
       .method = "CreatePool",
       .arguments = {{"NAME", "pool_id", "The pool's name", "pools/"},
                     {"SIZE", "pool.chunk_size_bytes", "Bytes of a chunk: 64KiB, 1MiB"},
                     {"COUNT", "pool.chunk_count", "Chunks"},
                     {"--max-chunks", "pool.max_chunk_count",
                      "Most chunks that it can grow to (default: 4 times COUNT)"},
                     {"--auto-grow", "pool.auto_grow", "Let it grow when a loan finds no chunk"},
                     {"--alignment", "pool.chunk_alignment_bytes",
                      "Of a chunk's first byte (default: 64)"},
                     {"--max-holders", "pool.max_holders_per_chunk",
                      "Most holders of a chunk at once (default: 24)"},
                     {"--allow-existing", "allow_existing", "Succeed if there is one like it"},
                     {"--validate-only", "validate_only", kValidateOnly}},
       .sections = {{"pool", kPoolColumns}},
       .examples = {"pools create video 1MiB 64",
                    "pools create tensors 64KiB 256 --max-chunks 4096 --auto-grow"},
       .patience_s = kLongPatience_s,
       .summary = CreatedLine},
      {.path = "pools grow",
       .about = "Give a pool more chunks while it is used; it never shrinks",
       .service = kAdmin,
       .method = "UpdatePool",
       .arguments =
           {{"POOL", "pool.name", "The pool's name", "pools/"},
            {"COUNT", "pool.chunk_count",
             "Chunks that it shall have, in all: from CHUNKS to MAX CHUNKS of `zerocp pools`", "",
             false, 1, shm::kMaxChunksPerPool},
            {"--validate-only", "validate_only", kValidateOnly}},
       .sections = {{"pool", kPoolColumns}},
       .examples = {"pools grow video 96", "pools grow video 128 --validate-only"},
       .patience_s = kLongPatience_s,
       .summary = ValidateOnlyLine},
      {.path = "pools delete",
       .about = "Delete a pool that no channel uses; its memory goes back to the system",
       .service = kAdmin,
       .method = "DeletePool",
       .arguments = {{"POOL", "name", "The pool's name", "pools/"},
                     {"--drain", "drain", "If chunks are held: go with the last of them"},
                     {"--allow-missing", "allow_missing", "Succeed if there is none"},
                     {"--validate-only", "validate_only", kValidateOnly}},
       .sections = {},
       .examples = {"pools delete video", "pools delete video --drain"},
       .summary = DeletedLine},
  };
}

std::vector<Word> ChannelWords() {
  return {
      {.path = "channels",
       .about = "List the channels, or create and delete one",
       .service = kObserver,
       .method = "ListChannels",
       .arguments = {},
       .sections = {{"channels", kChannelColumns}},
       .examples = {"channels", "channels -o yaml"}},
      {.path = "channels create",
       .about = "Create a channel, whose messages are chunks of a pool",
       .service = kAdmin,
       .method = "CreateChannel",
       .arguments = {{"NAME", "channel_id", "The channel's name", "channels/"},
                     {"--pool", "channel.pool", "The pool's name", "pools/", true},
                     {"--when-full", "channel.when_full",
                      "What a publisher meets when a subscriber's queue is full", "", true},
                     {"--queue", "channel.queue_capacity",
                      "Messages of a publisher that a subscriber may be behind (default: 16)"},
                     {"--history", "channel.history_count",
                      "Last messages of a publisher that are kept for late joiners (default: 0)"},
                     {"--max-held", "channel.max_held_count",
                      "Samples that a subscriber may hold at once (default: not limited)"},
                     {"--message-type", "channel.message_type",
                      "What a message is: who names another one is refused"},
                     {"--allow-existing", "allow_existing", "Succeed if there is one like it"},
                     {"--validate-only", "validate_only", kValidateOnly}},
       .sections = {{"channel", kChannelColumns}},
       .examples = {"channels create frames --pool video --when-full wait",
                    "channels create preview --pool video --when-full drop-oldest --queue 4"},
       .summary = CreatedLine},
      {.path = "channels delete",
       .about = "Delete a channel; what waits in its queues is still taken",
       .service = kAdmin,
       .method = "DeleteChannel",
       .arguments = {{"CHANNEL", "name", "The channel's name", "channels/"},
                     {"--even-if-in-use", "even_if_in_use",
                      "Also under its publishers and subscribers, who are told"},
                     {"--allow-missing", "allow_missing", "Succeed if there is none"}},
       .sections = {},
       .examples = {"channels delete frames", "channels delete frames --even-if-in-use"}},
  };
}

std::vector<Word> ClientWords() {
  return {
      {.path = "sessions",
       .about = "List the attached processes, or end one's session",
       .service = kObserver,
       .method = "ListSessions",
       .arguments = {},
       .sections = {{"sessions",
                     {{"SESSION", "name"},
                      {"CLIENT", "client_name"},
                      {"STATE", "state"},
                      {"ACCESS", "payload_access"},
                      {"PID", "peer_pid"},
                      {"UID", "peer_user_id"},
                      {"CHUNKS HELD", "held_chunk_count"},
                      {"ATTACHED", "attach_time"}},
                     false,
                     nullptr,
                     ToneOfSession}},
       .examples = {"sessions", "sessions -o json | jq '.sessions[] | {name, peer_pid}'"}},
      {.path = "sessions terminate",
       .about = "End a session; its chunks are free when this returns",
       .service = kAdmin,
       .method = "TerminateSession",
       .arguments = {{"SESSION", "name", "The session, as `zerocp sessions` has it", "sessions/"},
                     {"--kill", "kill", "Kill the process with SIGKILL"}},
       .sections = {{"", {{"chunks released", "released_chunk_count"}}}},
       .examples = {"sessions terminate e5e5461dbdf4", "sessions terminate e5e5461dbdf4 --kill"},
       .notes = "Without --kill the process is asked to let go, by every call it makes; that it "
                "did not is an error.",
       .patience_s = 15},
      {.path = "subscribers",
       .about = "List the subscribers, the slowest first, or detach one",
       .service = kObserver,
       .method = "GetStats",
       .arguments = {},
       .sections = {SubscriberSection()},
       .examples = {"subscribers",
                    "subscribers -o json | jq '.stats.channels[].subscribers[].subscriber'"},
       .notes = kSubscriberNotes},
      {.path = "subscribers detach",
       .about = "Take a subscriber off its channel, so that publishers go on",
       .service = kAdmin,
       .method = "DetachSubscriber",
       .arguments = {{"SUBSCRIBER", "name", "The subscriber, as `zerocp subscribers` has it",
                      "channels/"}},
       .sections = {{"", {{"messages it had not taken", "queued_count"}}}},
       .examples = {"subscribers detach channels/frames/subscribers/3-17",
                    "subscribers detach frames/subscribers/3-17"}},
      {.path = "holders",
       .about = "Who holds chunks, and the chunks that are held for longest",
       .service = kObserver,
       .method = "ListHeldChunks",
       .arguments = {{"--pool", "pool", "Only of this pool", "pools/"},
                     {"--holder", "holder",
                      "Only of this session, or of a channel's history: channels/...",
                      "sessions/"}},
       .sections = {{"holders",
                     {{"HOLDER", "holder", "(has just ended)"},
                      {"CLIENT", "client_name"},
                      {"PID", "peer_pid", "-"},
                      {"POOL", "pool"},
                      {"CHANNEL", "channel", "-"},
                      {"PHASE", "phase"},
                      {"CHUNKS", "chunk_count"},
                      {"OLDEST", "oldest_min_age"}}}},
       .examples = {"holders", "holders --pool video -o json | jq '.holders[0]'"},
       .notes =
           "Ages are what the daemon has seen at least. Each chunk with its holders: -o json."},
  };
}

std::vector<Word> DaemonWords() {
  return {
      {.path = "info",
       .about = "Show the daemon's version and instance",
       .service = kObserver,
       .method = "GetServerInfo",
       .arguments = {},
       .sections = {{"",
                     {{"zerocpd", "version"},
                      {"commit", "git_commit"},
                      {"pid", "pid"},
                      {"instance", "instance_name", "(default)"},
                      {"instance id", "instance_id"},
                      {"started", "start_time"},
                      {"memory layout", "layout_version"},
                      {"runtime directory", "runtime_dir"},
                      {"segment directory", "segment_dir"},
                      {"management addresses", "management_reserved_bytes"},
                      {"chunk addresses", "chunk_reserved_bytes"},
                      {"most sessions", "max_session_count"},
                      {"most chunks of a session", "max_chunks_per_session", "not limited"},
                      {"TLS address", "tls_address", "-"},
                      {"gRPC", "grpc_version"}}}},
       .examples = {"info", "info -o json | jq .pid"}},
      {.path = "stats",
       .about = "Show chunks by state, channels, and each subscriber, the slowest first",
       .service = kObserver,
       .method = "GetStats",
       .arguments = {},
       .sections =
           {{"stats.pools", kPoolStatsColumns, false, nullptr, ToneOfPoolStats},
            {"stats.channels",
             {{"CHANNEL", "channel"},
              {"PUBLISHERS", "publisher_count"},
              {"PUBLISHED", "published_count"},
              {"SUBSCRIBERS", "subscribers"},
              {"WAITED", "waited_count"}}},
            SubscriberSection(),
            {"stats.segments",
             {{"SEGMENT", "shm_name"}, {"SIZE", "size_bytes"}, {"AVAILABLE", "free_size_bytes"}}}},
       .examples = {"stats", "stats --watch --interval 0.5",
                    "stats -o json --runtime-dir /run/zerocp", "stats --offline",
                    "stats --offline --instance video --segment-dir /dev/shm"},
       .notes = kSubscriberNotes +
                std::string(
                    "\n\n"
                    "--offline reads the segments themselves: also with the daemon dead, and "
                    "without asking it "
                    "if it lives.\n"
                    "It changes nothing, needs the daemon's user or root, and shows sessions and "
                    "who holds most, "
                    "too. With -o json\n"
                    "or yaml session names and what only the daemon knows (start, recovered "
                    "sessions, least free) "
                    "are missing.\n"
                    "--segment-dir may name a directory with copies of both segments.\n\n"
                    "Exit status with --offline: 0 done, 3 no segments, 4 no permission, 5 another "
                    "memory layout,\n"
                    "6 damaged (what can be read is shown if only channels are), 1 anything else."),
       .summary = SessionsLine},
      {.path = "audit",
       .about = "Check every chunk and queue; exit status 1 if an invariant does not hold",
       .service = kAdmin,
       .method = "Audit",
       .arguments = {},
       .sections = {{"pools", kPoolStatsColumns},
                    {"violations", {{"INVARIANT", "invariant"}, {"DETAIL", "detail"}}, true}},
       .examples = {"audit", "audit -o json | jq .violations"},
       .summary = AuditLine,
       .verdict =
           [](const Message& response) {
             return As<v1::AuditResponse>(response).violation_count() == 0 ? kDone : kFailed;
           }},
      {.path = "cleanup",
       .about = "Show what dead processes and daemons left behind, or remove it",
       .service = kAdmin,
       .method = "Cleanup",
       .arguments = {{"--execute", "execute", "Really remove it"}},
       .sections = {{"items", {{"KIND", "kind"}, {"NAME", "name"}, {"REASON", "reason"}}, true}},
       .examples = {"cleanup", "cleanup --execute"},
       .notes = "Dead sessions of this daemon, and segments of daemons that no longer run and that "
                "no process uses;\nwhat is in them is lost. Without --execute nothing is changed.",
       .summary = CleanupLine},
      {.path = "log-level",
       .about = "Change how much the daemon logs, until its next start",
       .service = kAdmin,
       .method = "SetLogLevel",
       .arguments = {{"[LEVEL]", "level", "Left out: as the daemon was started"}},
       .sections = {{"", {{"before", "previous_level"}}}},
       .examples = {"log-level debug", "log-level"}},
  };
}

}  // namespace

const std::vector<Word>& Words() {
  static const std::vector<Word> words = [] {
    std::vector<Word> all = DaemonWords();
    for (auto& more : {PoolWords(), ChannelWords(), ClientWords()})
      all.insert(all.end(), more.begin(), more.end());
    return all;
  }();
  return words;
}

const Word& WordNamed(const std::string& path) {
  return *std::find_if(Words().begin(), Words().end(),
                       [&](const Word& word) { return word.path == path; });
}

}  // namespace zerocp::cli
