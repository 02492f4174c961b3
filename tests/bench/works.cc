#include <algorithm>

#include "tests/bench/client_killed.h"
#include "tests/bench/daemon_dead.h"
#include "tests/bench/fan.h"
#include "tests/bench/grpc_beside_empty.h"
#include "tests/bench/grpc_watched.h"
#include "tests/bench/in_process.h"
#include "tests/bench/work.h"

namespace zerocp::bench {
namespace {

using Kind = std::function<Subject(const LinkSpec&)> Peer::*;

// "1KiB", as in the names of works and in the daemon's arguments.
std::string Size(size_t bytes) {
  if (bytes % 1'000'000 == 0) return std::to_string(bytes / 1'000'000) + "MB";
  return bytes % (1 << 20) == 0 ? std::to_string(bytes >> 20) + "MiB"
                                : std::to_string(bytes >> 10) + "KiB";
}

// A pool, and a channel of it in each direction.
std::vector<std::string> Channels(size_t bytes, size_t chunks, size_t queue) {
  const std::string options = "=bench,queue=" + std::to_string(queue);
  return {"--pool",    "bench=" + std::to_string(bytes) + "x" + std::to_string(chunks),
          "--channel", "ping" + options,
          "--channel", "pong" + options};
}

// As many chunks as 256 MiB have, or three queues, or as few of those that are touched as
// everybody has soon mapped.
std::vector<std::string> Channels(const LinkSpec& spec) {
  const size_t pool_bytes = (spec.touched ? size_t{32} : size_t{256}) << 20;
  return Channels(spec.bytes, std::clamp(pool_bytes / spec.bytes, 3 * spec.queue(), size_t{8192}),
                  spec.queue());
}

Subject Named(std::string name, Subject subject) {
  subject.name = std::move(name);
  return subject;
}

Work LoanRelease(const std::string& variant, const std::string& about, LoanSpec spec, int chunks,
                 std::vector<Goal> goals, const std::string& beside = {}) {
  return {"loan_release" + variant,
          about,
          100,
          std::move(goals),
          Channels(spec.bytes, chunks, 16),
          [spec, beside](const Site& site) mutable {
            spec.place = site.daemon.runtime_dir();
            auto subjects = Everybody(site, &Peer::loan_release, spec);
            if (beside.empty()) return subjects;
            spec.held = spec.threads = 1;
            subjects.push_back(Named(beside, site.peers[0].loan_release(spec)));
            return subjects;
          }};
}

Work PoolSize() {
  return {"loan_release/pool=1M",
          "500 chunks of 64 bytes at a time, of a pool of a million",
          50,
          {{"zerocp, pool of 1,000", 1.2, 2.4}},
          {"--pool", "large=64x1000000", "--channel", "large=large", "--pool", "small=64x1000",
           "--channel", "small=small"},
          [](const Site& site) {
            LoanSpec spec{site.daemon.runtime_dir(), 64, 500, 1, "large"};
            std::vector<Subject> subjects = {site.peers[0].loan_release(spec)};
            spec.channel = "small";
            subjects.push_back(Named("zerocp, pool of 1,000", site.peers[0].loan_release(spec)));
            return subjects;
          }};
}

Work HandedOver() {
  return {"loan_release/handed_over",
          "a loan of 1 KiB, and its release by another process that it was published to: both, "
          "without the way between them",
          100,
          {{"iceoryx2", 1.0, 3.0}},
          Channels(1024, 8192, 128),
          [](const Site& site) {
            return Everybody(site, &Peer::handed_over, {.place = site.daemon.runtime_dir()});
          }};
}

Work PingPong(const std::string& variant, const std::string& about, LinkSpec spec, int rounds,
              std::vector<Goal> goals, std::vector<std::string> without) {
  return {"ping_pong" + variant,
          about,
          rounds,
          std::move(goals),
          Channels(spec),
          [spec, without](const Site& site) mutable {
            spec.place = site.daemon.runtime_dir();
            std::vector<Peer> taking_part;
            for (const Peer& peer : site.peers)
              if (std::find(without.begin(), without.end(), peer.name) == without.end())
                taking_part.push_back(peer);
            return Everybody(Site{site.daemon, taking_part}, &Peer::ping_pong, spec);
          }};
}

// A message beside a round trip of the floor: the only subject whose work is another one.
Work Stream(size_t bytes, bool touched) {
  LinkSpec spec{{}, bytes, false, touched};
  // With few chunks both ends wait for each other often.
  const bool few = bytes >= 1 << 20;
  std::vector<Goal> goals = {
      {"iceoryx", 0.2}, {"iceoryx2", 0.2, few ? 1.2 : 0.5}, {"floor", 0.25, few ? 2.0 : 1.0}};
  // A host whose memory others keep busy takes twenty times as long for all that does not fit the
  // caches; a socket's few pages do.
  if (touched) goals = {{"socket", 1.0, 4.0}};
  return {"stream/" + Size(bytes) + (touched ? "/filled" : ""),
          "messages of " + Size(bytes) + " to another process, " +
              (touched ? "filled there and read here" : "untouched"),
          touched ? 50 : 100,
          goals,
          Channels(spec),
          [spec](const Site& site) mutable {
            spec.place = site.daemon.runtime_dir();
            auto subjects = Everybody(site, &Peer::stream, spec);
            for (const Peer& peer : site.peers)
              if (peer.name == "floor" && !spec.touched) subjects.push_back(peer.ping_pong(spec));
            return subjects;
          }};
}

std::vector<Work> DataPlane() {
  constexpr size_t kMiB = size_t{1} << 20;
  const std::vector<std::string> not_polling = {"futex"};
  const std::vector<std::string> not_large = {"futex", "floor", "pipe"};
  const std::vector<std::string> not_sleeping = {"floor"};
  return {LoanRelease("/1KiB", "a loan of 1 KiB and its release", {}, 8192,
                      {{"glibc", 0.5}, {"iceoryx", 0.01, 0.05}, {"iceoryx2", 1.0}}),
          LoanRelease("/threads=2", "the same in two threads at once", {.threads = 2}, 8192,
                      {{"zerocp, 1 thread", 1.1}}, "zerocp, 1 thread"),
          LoanRelease("/held=64", "64 loans of 1 KiB, then their releases", {.held = 64}, 8192,
                      {{"zerocp, 1 held", 1.2, 4.0}}, "zerocp, 1 held"),
          LoanRelease("/held=10000", "10,000 loans of 1 KiB, then their releases", {.held = 10000},
                      20000, {{"zerocp, 1 held", 1.2, 25.0}}, "zerocp, 1 held"),
          PoolSize(),
          HandedOver(),
          PingPong("/1KiB", "1 KiB to another process and back, both polling", {}, 100,
                   {{"floor", 2.0}, {"iceoryx", 0.25}, {"iceoryx2", 1.0}}, not_polling),
          PingPong("/sleeping", "the same, both sleeping", {.sleeping = true}, 100,
                   {{"futex", 1.3}}, not_sleeping),
          PingPong("/64KiB", "64 KiB, both polling", {.bytes = 64 << 10}, 50, {}, not_large),
          PingPong("/1MiB", "1 MiB, both polling", {.bytes = kMiB}, 50, {}, not_large),
          PingPong("/25MB", "25 MB, both polling", {.bytes = 25'000'000}, 50,
                   {{"iceoryx2", 1.0}, {"socket", 0.01}}, not_large),
          Stream(1024, false),
          Stream(64 << 10, false),
          Stream(kMiB, false),
          Stream(32 * kMiB, false),
          Stream(1024, true),
          Stream(64 << 10, true),
          Stream(kMiB, true),
          Stream(32 * kMiB, true)};
}

// `fan` is so small that its chunks come back to a publisher while other cores still have their
// lines, whether subscribers or the publisher itself gave them back.
const std::vector<std::string> kFan = {"--pool", "fan=1KiBx1024", "--channel",
                                       "drop=fan,queue=128,when-full=drop"};

std::vector<Work> Others() {
  const auto channels = Channels(1024, 8192, 16);
  return {{"dropping_stopped",
           "loan and publish to 12 subscribers of a channel that drops, one of them stopped",
           100,
           {{"none stopped", 1.1, 1.25}},
           kFan,
           DroppingStopped},
          {"dropping_flood",
           "the same as fast as it goes, so that all of them miss messages",
           50,
           {{"none stopped", 1.1, 1.25}},
           kFan,
           DroppingFlood},
          {"daemon_dead",
           "a stream of 1 KiB messages to another process while the daemon is dead",
           100,
           {{"alive", 1 / 0.9, 1 / 0.9}},  // 90 % of the messages per second
           channels,
           DaemonDead},
          {"get_stats", "GetStats over gRPC", 100, {{"empty RPC", 1.5, 2.5}}, {}, GetStats},
          {"create_session", "CreateSession", 100, {{"empty RPC", 1.5, 2.5}}, {}, CreateSession},
          {"attach_to_loan",
           "from Connect to the first chunk",
           100,
           {{"2 empty RPCs", 1.0, 1.5}},
           channels,
           AttachToLoan},
          {"watched",
           "a loan of 1 KiB and its release while 64 callers watch the statistics at 100 ms",
           50,
           {{"none", 1.2, 1.5}},
           channels,
           Watched}};
}

std::vector<Work> InProcess() {
  const auto channels = Channels(LinkSpec{});
  return {{"publish_release/first",
           "publishing 1 KiB to a subscriber, and its release of it",
           50,
           {{"3 locked adds", 1.0, 6.0}},
           channels,
           PublishRelease},
          {"publish_release/further",
           "what each further subscriber adds to that",
           50,
           {{"4 locked adds", 1.0, 4.0}},
           channels,
           FurtherSubscriber},
          {"share_open_release",
           "a loan, its share, the opening of its handle, and both releases",
           50,
           {},
           channels,
           ShareOpenRelease},
          {"refused_loan",
           "a loan from a pool whose 8 chunks are held",
           50,
           {},
           {"--pool", "empty=1KiBx8"},
           RefusedLoan}};
}

Work FanOut(int subscribers) {
  const std::string count = std::to_string(subscribers);
  return {"fan_out/" + count,
          "loan and publish to " + count + " subscribers in processes of their own, which keep up",
          50,
          {},
          kFan,
          [subscribers](const Site& site) {
            return Everybody(site, &Peer::fan_out,
                             {.place = site.daemon.runtime_dir(),
                              .channel = "drop",
                              .subscribers = subscribers,
                              .drops = true});
          }};
}

// In a pool that has enough for all queues to be full.
Work Publishers(bool drops, int publishers, int subscribers) {
  FanSpec spec{
      .channel = "fan", .publishers = publishers, .subscribers = subscribers, .drops = drops};
  return {std::string(drops ? "dropping" : "waiting") + "/publishers=" +
              std::to_string(publishers) + "/subscribers=" + std::to_string(subscribers),
          std::string("time per message of all publishers, which ") +
              (drops ? "drop what is not taken in time, until the last is published"
                     : "wait for who is slow, until the last is taken by all") +
              "; a process each, publishers on one half of the processors, subscribers that poll "
              "on the other",
          20,
          {},
          {"--pool", "fan=1KiBx4096", "--channel",
           std::string("fan=fan,queue=128") + (drops ? ",when-full=drop" : "")},
          [spec](const Site& site) mutable {
            spec.place = site.daemon.runtime_dir();
            return Everybody(site, &Peer::publishers, spec);
          },
          publishers != 2 || subscribers != 4 || drops};
}

template <class Spec>
Work ClientKilled(const std::string& variant, std::function<Subject(const Spec&)> Peer::*kind) {
  return {"client_killed/" + variant,
          variant + " while a client that holds 1,000 chunks is killed every 100 ms",
          20,
          {{"quiet", 1.5}, {"quiet", 1.5, 30.0, 0.99}},
          Channels(1024, 8192, 128),
          [kind](const Site& site) {
            const Spec spec{.place = site.daemon.runtime_dir()};
            return UnderKills(site, (site.peers[0].*kind)(spec));
          }};
}

// Also of a peer whom the daemon does not serve: what the kills cost anybody on so few processors.
Work StreamUnderKills() {
  Work work = ClientKilled("stream", &Peer::stream);
  work.goals.push_back({"iceoryx2, kills", 1.0, 2.0, 0.99});
  work.subjects = [own = work.subjects](const Site& site) {
    auto subjects = own(site);
    for (const Peer& peer : site.peers) {
      if (peer.name != "iceoryx2" || !peer.missing.empty()) continue;
      for (Subject& subject : UnderKills(site, peer.stream({.place = site.daemon.runtime_dir()}))) {
        subject.name = peer.name + ", " + subject.name;
        subjects.push_back(std::move(subject));
      }
    }
    return subjects;
  };
  return work;
}

}  // namespace

std::vector<Work> AllWorks() {
  std::vector<Work> all = DataPlane();
  for (Work& work : InProcess()) all.push_back(std::move(work));
  for (int subscribers : {1, 2, 4, 8, 16}) all.push_back(FanOut(subscribers));
  for (bool drops : {false, true}) {
    for (const auto& [publishers, subscribers] : std::initializer_list<std::pair<int, int>>{
             {1, 1}, {1, 4}, {2, 1}, {2, 4}, {4, 1}, {4, 4}, {4, 16}})
      all.push_back(Publishers(drops, publishers, subscribers));
  }
  for (Work& work : Others()) all.push_back(std::move(work));
  all.push_back(ClientKilled("loan_release", &Peer::loan_release));
  all.push_back(ClientKilled("ping_pong", &Peer::ping_pong));
  all.push_back(StreamUnderKills());
  return all;
}

}  // namespace zerocp::bench
