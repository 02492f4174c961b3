#include "server/stats_metrics.h"

#include <google/protobuf/util/time_util.h>

#include <algorithm>
#include <cctype>
#include <initializer_list>
#include <string>
#include <tuple>
#include <utility>

#include "server/build_info.h"
#include "shm/mutant.h"
#include "zerocp/v1/observer_service.pb.h"

namespace zerocp {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;
using Labels = std::initializer_list<ClientMetric::Label>;

// A family without series is left out of the answer.
class Family {
 public:
  Family(const char* name, const char* help, MetricType type) {
    family_.name = name;
    family_.help = help;
    family_.type = type;
  }
  template <class Number>
  void Add(Labels labels, Number value) {
    ClientMetric& metric = family_.metric.emplace_back();
    metric.label = labels;
    (family_.type == MetricType::Counter ? metric.counter.value : metric.gauge.value) =
        static_cast<double>(value);
  }
  void MoveTo(std::vector<MetricFamily>* families) {
    if (!family_.metric.empty()) families->push_back(std::move(family_));
  }

 private:
  MetricFamily family_;
};

Family Gauge(const char* name, const char* help) { return {name, help, MetricType::Gauge}; }
Family Counter(const char* name, const char* help) { return {name, help, MetricType::Counter}; }

// "video" of "pools/video".
std::string IdOf(const std::string& resource) { return resource.substr(resource.rfind('/') + 1); }

double Seconds(std::chrono::system_clock::time_point time) {
  return std::chrono::duration<double>(time.time_since_epoch()).count();
}
double Seconds(const google::protobuf::Duration& duration) {
  return static_cast<double>(google::protobuf::util::TimeUtil::DurationToMilliseconds(duration)) /
         1000;
}

void AddPools(const v1::Stats& stats, std::vector<MetricFamily>* families) {
  Family chunks = Gauge("zerocp_pool_chunks", "Chunks of the pool, by state.");
  Family least = Gauge("zerocp_pool_min_free_chunks", "Least free chunks of the last 60 s.");
  Family loans = Counter("zerocp_pool_loans_total", "Loans since the pool was created.");
  Family exhausted =
      Counter("zerocp_pool_exhausted_total", "Loans refused because the pool was empty.");
  Family recovered =
      Counter("zerocp_pool_recovered_chunks_total", "Chunks taken back from dead sessions.");
  for (const v1::PoolStats& pool : stats.pools()) {
    const std::string id = IdOf(pool.pool());
    chunks.Add({{"pool", id}, {"state", "free"}}, pool.free_chunk_count());
    chunks.Add({{"pool", id}, {"state", "cached"}}, pool.cached_chunk_count());
    chunks.Add({{"pool", id}, {"state", "writing"}}, pool.writing_chunk_count());
    chunks.Add({{"pool", id}, {"state", "shared"}}, pool.shared_chunk_count());
    least.Add({{"pool", id}}, pool.min_free_chunk_count_1m());
    loans.Add({{"pool", id}}, pool.loan_count());
    exhausted.Add({{"pool", id}}, pool.exhausted_count());
    recovered.Add({{"pool", id}}, pool.recovered_chunk_count());
  }
  for (Family* family : {&chunks, &least, &loans, &exhausted, &recovered}) family->MoveTo(families);
}

void AddPoolSizes(const std::vector<PoolInfo>& pools, std::vector<MetricFamily>* families) {
  Family size = Gauge("zerocp_pool_chunk_size_bytes", "Payload bytes of a chunk.");
  Family most = Gauge("zerocp_pool_max_chunks", "Chunks that the pool can grow to.");
  for (const PoolInfo& pool : pools) {
    size.Add({{"pool", pool.spec.name}}, pool.spec.chunk_size_bytes);
    most.Add({{"pool", pool.spec.name}}, pool.spec.max_chunk_count);
  }
  size.MoveTo(families);
  most.MoveTo(families);
}

void AddChannels(const v1::Stats& stats, std::vector<MetricFamily>* families) {
  Family publishers = Gauge("zerocp_channel_publishers", "Publishers of the channel.");
  Family subscribers = Gauge("zerocp_channel_subscribers", "Subscribers of the channel.");
  Family published = Counter("zerocp_channel_published_messages_total", "Messages published.");
  Family waited = Counter("zerocp_channel_full_queues_total", "Publishes that met a full queue.");
  for (const v1::ChannelStats& channel : stats.channels()) {
    const std::string id = IdOf(channel.channel());
    publishers.Add({{"channel", id}}, channel.publisher_count());
    subscribers.Add({{"channel", id}}, channel.subscribers_size());
    published.Add({{"channel", id}}, channel.published_count());
    waited.Add({{"channel", id}}, channel.waited_count());
  }
  for (Family* family : {&publishers, &subscribers, &published, &waited}) family->MoveTo(families);
}

using Subscriber = std::pair<const v1::ChannelStats*, const v1::SubscriberStats*>;

// The slowest of all channels, kMaxSubscriberSeries of them.
std::vector<Subscriber> SlowestSubscribers(const v1::Stats& stats) {
  std::vector<Subscriber> subscribers;
  for (const v1::ChannelStats& channel : stats.channels())
    for (const v1::SubscriberStats& subscriber : channel.subscribers())
      subscribers.emplace_back(&channel, &subscriber);
  std::stable_sort(subscribers.begin(), subscribers.end(), [](const auto& a, const auto& b) {
    const auto slowness = [](const v1::SubscriberStats& s) {
      return std::tuple(s.stalled_for().seconds(), s.stalled_for().nanos(), s.queued_count());
    };
    return slowness(*a.second) > slowness(*b.second);
  });
  if (subscribers.size() > kMaxSubscriberSeries) subscribers.resize(kMaxSubscriberSeries);
  return subscribers;
}

// A subscriber's label is its place in the channel: a place is used again, so that there are never
// more labels than places.
void AddSubscribers(const v1::Stats& stats, std::vector<MetricFamily>* families) {
  Family queued = Gauge("zerocp_subscriber_queued_messages", "Messages that wait to be taken.");
  Family fullest =
      Gauge("zerocp_subscriber_fullest_queue_messages",
            "Messages of the publisher of which most wait: at the capacity the queue is full.");
  Family capacity = Gauge("zerocp_subscriber_queue_capacity_messages",
                          "Messages of one publisher that can wait.");
  Family held = Gauge("zerocp_subscriber_held_samples", "Samples taken and not released.");
  Family taken = Counter("zerocp_subscriber_taken_messages_total", "Messages taken.");
  Family missed = Counter("zerocp_subscriber_missed_messages_total",
                          "Messages dropped because the queue was full.");
  Family stalled = Gauge("zerocp_subscriber_stalled_seconds",
                         "Time in which nothing was taken although messages waited.");
  for (const auto& [channel, subscriber] : SlowestSubscribers(stats)) {
    const std::string name = IdOf(subscriber->subscriber());  // "3-17": place and epoch
    const Labels labels = {{"channel", IdOf(channel->channel())},
                           {"subscriber", name.substr(0, name.find('-'))}};
    queued.Add(labels, subscriber->queued_count());
    fullest.Add(labels, subscriber->fullest_queued_count());
    capacity.Add(labels, subscriber->queue_capacity());
    held.Add(labels, subscriber->held_count());
    taken.Add(labels, subscriber->taken_count());
    missed.Add(labels, subscriber->missed_count());
    stalled.Add(labels, Seconds(subscriber->stalled_for()));
  }
  for (Family* family : {&queued, &fullest, &capacity, &held, &taken, &missed, &stalled})
    family->MoveTo(families);
}

void AddInstance(const v1::Stats& stats, std::vector<MetricFamily>* families) {
  Family sessions = Gauge("zerocp_sessions", "Sessions, by state.");
  sessions.Add({{"state", "attached"}}, stats.attached_session_count());
  sessions.Add({{"state", "orphaned"}}, stats.orphaned_session_count());
  Family recovered =
      Counter("zerocp_recovered_sessions_total", "Sessions recovered after their process died.");
  recovered.Add({}, stats.recovered_session_count());
  Family segments = Gauge("zerocp_segment_size_bytes", "Real memory that the segment takes.");
  Family available =
      Gauge("zerocp_memory_available_bytes", "Memory that pools can still be given.");
  for (const v1::Segment& segment : stats.segments()) {
    const bool management = segment.kind() == v1::Segment::KIND_MANAGEMENT;
    segments.Add({{"segment", management ? "management" : "chunk"}}, segment.size_bytes());
    if (management) available.Add({}, segment.free_size_bytes());
  }
  for (Family* family : {&sessions, &recovered, &segments, &available}) family->MoveTo(families);
}

// "session_died" of KIND_SESSION_DIED. Every kind has its series from the start, so that the first
// event of a kind is an increase.
void AddEvents(const std::map<EventKind, uint64_t>& counts, std::vector<MetricFamily>* families) {
  Family events = Counter("zerocp_events_total", "Events, by kind; see WatchEvents.");
  const auto* kinds = v1::WatchEventsResponse::Kind_descriptor();
  for (int i = 0; i < kinds->value_count(); ++i) {
    if (kinds->value(i)->number() == 0) continue;
    std::string kind = kinds->value(i)->name().substr(std::string_view("KIND_").size());
    std::transform(kind.begin(), kind.end(), kind.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    const auto found = counts.find(static_cast<EventKind>(kinds->value(i)->number()));
    events.Add({{"kind", kind}}, found == counts.end() ? 0 : found->second);
  }
  events.MoveTo(families);
}

}  // namespace

std::vector<MetricFamily> StatsMetrics::Collect() const {
  std::vector<MetricFamily> families;
  Family build = Gauge("zerocp_build_info", "1; the labels tell of the build.");
  build.Add({{"version", kVersion}, {"commit", kGitCommit}}, 1);
  build.MoveTo(&families);
  Family start = Gauge("zerocp_start_time_seconds", "When the daemon started.");
  start.Add({}, Seconds(core_.start_time));
  start.MoveTo(&families);
  if (const auto expiry = certificate_expiry_ ? certificate_expiry_() : std::nullopt) {
    Family certificate = Gauge("zerocp_tls_certificate_expiry_seconds",
                               "When the certificate of the TLS listener expires.");
    certificate.Add({}, Seconds(*expiry));
    certificate.MoveTo(&families);
  }
  AddEvents(core_.events.Counts(), &families);
  AddPoolSizes(pools_.List(), &families);
  if (const auto stats = stats_.Read(); stats.ok()) {
    AddPools(*stats, &families);
    AddChannels(*stats, &families);
    AddSubscribers(*stats, &families);
    AddInstance(*stats, &families);
  }
  return families;
}

}  // namespace zerocp
