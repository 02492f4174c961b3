#include "client/cli/top_screen.h"

#include <google/protobuf/util/time_util.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <map>
#include <utility>

#include "client/cli/output.h"
#include "client/cli/render.h"
#include "client/cli/slowness.h"

namespace zerocp::cli {
namespace {

using google::protobuf::util::TimeUtil;
using Line = Table::Line;

std::string IdOf(const std::string& name) { return name.substr(name.rfind('/') + 1); }

// Short enough for `width`, its ends kept, and nothing that a terminal takes for a command.
std::string Clipped(std::string text, size_t width) {
  for (char& c : text)
    if (c < ' ' || c > '~') c = '?';
  if (text.size() <= width) return text;
  const size_t head = (width - 1) / 2;
  return text.substr(0, head) + "~" + text.substr(text.size() - (width - 1 - head));
}

// "950", "12.3k", "4M".
std::string CountText(double count) {
  const char* unit = "";
  for (const char* larger : {"k", "M", "G", "T"}) {
    if (count < 1000) break;
    count /= 1000;
    unit = larger;
  }
  std::array<char, 32> text{};
  const bool whole = count >= 100 || count == std::floor(count);
  std::snprintf(text.data(), text.size(), "%.*f%s", whole ? 0 : 1, count, unit);
  return text.data();
}
std::string CountText(int64_t count) { return CountText(static_cast<double>(count)); }

// The lines of a table whose names are clipped so far that it is no wider than `width`.
template <class Build>
std::vector<Line> Fitted(size_t width, Build build) {
  for (size_t name_width = 40;; --name_width) {
    std::vector<Line> lines = build(name_width);
    size_t widest = 0;
    for (const Line& line : lines) widest = std::max(widest, line.text.size());
    if (widest <= width || name_width == 4) return lines;
  }
}

// Of a counter, per second; "-" while there is no earlier one.
class Rates {
 public:
  explicit Rates(const TopView& view)
      : seconds_(!view.before.has_read_time()
                     ? 0
                     : static_cast<double>(TimeUtil::DurationToMilliseconds(
                           view.now.read_time() - view.before.read_time())) /
                           1000) {}
  std::string Text(int64_t now, int64_t before) const {
    if (seconds_ <= 0) return "-";
    // A counter that runs back is that of a pool or channel that was created anew.
    return CountText(
        now < before ? 0 : (static_cast<double>(now) - static_cast<double>(before)) / seconds_);
  }

 private:
  const double seconds_;
};

std::string AgeText(int64_t seconds) {
  if (seconds < 60) return std::to_string(seconds) + "s";
  if (seconds < 3600)
    return std::to_string(seconds / 60) + "m" + std::to_string(seconds % 60) + "s";
  if (seconds < 86400)
    return std::to_string(seconds / 3600) + "h" + std::to_string(seconds / 60 % 60) + "m";
  return std::to_string(seconds / 86400) + "d" + std::to_string(seconds / 3600 % 24) + "h";
}

// `count` of the pool's chunks, if all of them are `whole`; from 0 to `whole`, whatever numbers a
// daemon sends.
double ShareOf(const v1::PoolStats& pool, double count, double whole) {
  const auto chunks = static_cast<double>(std::max<int64_t>(pool.chunk_count(), 1));
  return std::clamp(count * whole / chunks, 0.0, whole);
}

// "[####==~      ]": shared, being written, in caches, free; what there is of has a mark at least.
std::string Bar(const v1::PoolStats& pool, size_t width) {
  const size_t inside = width - 2;
  std::string bar;
  for (const auto& [count, mark] :
       {std::pair(pool.shared_chunk_count(), '#'), std::pair(pool.writing_chunk_count(), '='),
        std::pair(pool.cached_chunk_count(), '~')}) {
    const auto share = static_cast<size_t>(
        std::lround(ShareOf(pool, static_cast<double>(count), static_cast<double>(inside))));
    bar += std::string(count > 0 ? std::max<size_t>(share, 1) : 0, mark);
  }
  bar.resize(inside, ' ');
  if (pool.free_chunk_count() > 0) bar.back() = ' ';
  return "[" + bar + "]";
}

int64_t UsedPercent(const v1::PoolStats& pool) {
  const double used = static_cast<double>(pool.shared_chunk_count()) +
                      static_cast<double>(pool.writing_chunk_count());
  return static_cast<int64_t>(ShareOf(pool, used, 100));
}

Tone ToneOf(const v1::PoolStats& pool) {
  if (pool.free_chunk_count() <= 0 && pool.cached_chunk_count() <= 0) return Tone::kBad;
  return UsedPercent(pool) >= 90 ? Tone::kWarning : Tone::kPlain;
}

std::vector<Line> Pools(const TopView& view, size_t width) {
  std::map<std::string, const v1::PoolStats*> before;
  for (const v1::PoolStats& pool : view.before.pools()) before[pool.pool()] = &pool;
  const Rates rates(view);
  std::vector<const v1::PoolStats*> pools;
  for (const v1::PoolStats& pool : view.now.pools()) pools.push_back(&pool);
  std::stable_sort(pools.begin(), pools.end(),
                   [](const auto* a, const auto* b) { return ToneOf(*a) > ToneOf(*b); });
  const size_t bar = std::min<size_t>(width < 100 ? 22 : width - 76, 60);
  return Fitted(width, [&](size_t name_width) {
    Table table({"POOL", "USE", ">USED", ">FREE", ">CHUNKS", ">LOW 1M", ">LOANS/S", ">REFUSED"});
    for (const v1::PoolStats* shown : pools) {
      const v1::PoolStats& pool = *shown;
      const auto old = before.find(pool.pool());
      table.Add(
          {Clipped(IdOf(pool.pool()), name_width), Bar(pool, bar),
           std::to_string(UsedPercent(pool)) + "%", std::to_string(pool.free_chunk_count()),
           std::to_string(pool.chunk_count()), std::to_string(pool.min_free_chunk_count_1m()),
           old == before.end() ? "-" : rates.Text(pool.loan_count(), old->second->loan_count()),
           CountText(pool.exhausted_count())},
          ToneOf(pool));
    }
    return table.Lines();
  });
}

// Of those for which something waits; nullptr: nobody is behind.
const v1::SubscriberStats* SlowestOf(const v1::ChannelStats& channel) {
  const v1::SubscriberStats* slowest = nullptr;
  for (const v1::SubscriberStats& subscriber : channel.subscribers()) {
    if (subscriber.queued_count() == 0 || subscriber.state() == v1::SubscriberStats::STATE_DETACHED)
      continue;
    if (slowest == nullptr || IsSlower(subscriber, *slowest)) slowest = &subscriber;
  }
  return slowest;
}

int64_t StalledSeconds(const v1::ChannelStats& channel) {
  const v1::SubscriberStats* slowest = SlowestOf(channel);
  return slowest == nullptr ? 0 : slowest->stalled_for().seconds();
}

std::vector<std::string> SlowestCells(const v1::ChannelStats& channel, size_t name_width) {
  const v1::SubscriberStats* slowest = SlowestOf(channel);
  if (slowest == nullptr) return {"-", "", "", "", ""};
  const int64_t stalled_s = slowest->stalled_for().seconds();
  return {IdOf(slowest->subscriber()) + " " + Clipped(slowest->client_name(), name_width),
          std::to_string(slowest->fullest_queued_count()) + "/" +
              std::to_string(slowest->queue_capacity()),
          std::to_string(slowest->held_count()), CountText(slowest->missed_count()),
          stalled_s == 0 ? "-" : AgeText(stalled_s)};
}

std::vector<Line> Channels(const TopView& view, size_t width) {
  std::map<std::string, const v1::ChannelStats*> before;
  for (const v1::ChannelStats& channel : view.before.channels())
    before[channel.channel()] = &channel;
  const Rates rates(view);
  std::vector<const v1::ChannelStats*> channels;
  for (const v1::ChannelStats& channel : view.now.channels()) channels.push_back(&channel);
  std::stable_sort(channels.begin(), channels.end(), [&](const auto* a, const auto* b) {
    const auto urgency = [](const v1::ChannelStats& channel) {
      return std::pair(StalledSeconds(channel),
                       channel.publisher_count() > 0 || channel.subscribers_size() > 0);
    };
    return urgency(*a) > urgency(*b);
  });
  return Fitted(width, [&](size_t name_width) {
    Table table({"CHANNEL", ">PUB/SUB", ">MSGS/S", ">WAITS/S", "SLOWEST", ">QUEUED", ">HELD",
                 ">LOST", ">STALLED"});
    for (const v1::ChannelStats* channel : channels) {
      const auto old = before.find(channel->channel());
      const bool is_new = old == before.end();
      std::vector<std::string> cells{
          Clipped(IdOf(channel->channel()), name_width),
          std::to_string(channel->publisher_count()) + "/" +
              std::to_string(channel->subscribers_size()),
          is_new ? "-" : rates.Text(channel->published_count(), old->second->published_count()),
          is_new ? "-" : rates.Text(channel->waited_count(), old->second->waited_count())};
      for (std::string& cell : SlowestCells(*channel, name_width)) cells.push_back(std::move(cell));
      table.Add(std::move(cells), StalledSeconds(*channel) > 0 ? Tone::kBad : Tone::kPlain);
    }
    return table.Lines();
  });
}

std::vector<Line> Holders(const TopView& view, size_t width) {
  std::vector<const v1::HolderSummary*> holders;
  for (const v1::HolderSummary& holder : view.holders) holders.push_back(&holder);
  std::stable_sort(holders.begin(), holders.end(), [](const auto* a, const auto* b) {
    return a->oldest_min_age() > b->oldest_min_age();
  });
  return Fitted(width, [&](size_t name_width) {
    Table table({"HOLDER", "CLIENT", ">PID", "POOL", "CHANNEL", "PHASE", ">CHUNKS", ">OLDEST"});
    for (const v1::HolderSummary* holder : holders) {
      table.Add(
          {Clipped(IdOf(holder->holder()), std::max<size_t>(name_width, 12)),
           Clipped(holder->client_name(), name_width),
           holder->peer_pid() == 0 ? "-" : std::to_string(holder->peer_pid()),
           Clipped(IdOf(holder->pool()), name_width), Clipped(IdOf(holder->channel()), name_width),
           WordOf(*v1::HeldChunk::Phase_descriptor(), holder->phase()),
           std::to_string(holder->chunk_count()), AgeText(holder->oldest_min_age().seconds())});
    }
    return table.Lines();
  });
}

std::vector<Line> Header(const TopView& view) {
  const auto age = [&](const auto& since) {
    return AgeText((view.now.read_time() - since).seconds());
  };
  const v1::Stats& now = view.now;
  std::string first = "zerocpd " + Printable(view.info.version()) + "  process " +
                      std::to_string(view.info.pid()) + "  up " + age(now.start_time()) + "  " +
                      TimeText(now.read_time());
  if (view.paused) first += "  PAUSED";
  std::string second = std::to_string(now.attached_session_count()) + " clients";
  if (now.orphaned_session_count() > 0)
    second += ", " + std::to_string(now.orphaned_session_count()) + " orphaned";
  if (now.recovered_session_count() > 0)
    second += ", " + std::to_string(now.recovered_session_count()) + " recovered after death";
  int64_t bytes = 0;
  for (const v1::Segment& segment : now.segments()) bytes += segment.size_bytes();
  second += "  segments " + FormatBytes(bytes);
  if (now.segments_size() > 0)
    second += ", " + FormatBytes(now.segments(0).free_size_bytes()) + " available";
  std::vector<Line> lines{{first, Tone::kHeading}, {second, Tone::kPlain}};
  if (!view.trouble.empty()) lines.push_back({Printable(view.trouble), Tone::kBad});
  return lines;
}

// How many lines each part gets: all if there is room, else no part less than its share.
std::vector<size_t> Shares(const std::vector<std::vector<Line>>& parts, size_t room) {
  std::vector<size_t> shares;
  shares.reserve(parts.size());
  for (const auto& part : parts) shares.push_back(part.size());
  const auto sum = [&] {
    size_t all = 0;
    for (const size_t share : shares) all += share;
    return all;
  };
  while (sum() > room) --*std::max_element(shares.begin(), shares.end());
  return shares;
}

}  // namespace

std::vector<Line> TopScreen(const TopView& view, size_t width, size_t height) {
  std::vector<Line> lines = Header(view);
  const std::vector<std::vector<Line>> parts{Pools(view, width), Channels(view, width),
                                             Holders(view, width)};
  const size_t room = height - lines.size() - parts.size() - 1;
  const std::vector<size_t> shares = Shares(parts, room);
  for (size_t i = 0; i < parts.size(); ++i) {
    lines.push_back({"", Tone::kPlain});
    const size_t shown = shares[i] < parts[i].size() ? shares[i] - 1 : parts[i].size();
    lines.insert(lines.end(), parts[i].begin(), parts[i].begin() + static_cast<ptrdiff_t>(shown));
    if (shown < shares[i])
      lines.push_back({"and " + std::to_string(parts[i].size() - shown) + " more", Tone::kPlain});
  }
  lines.resize(height - 1, {"", Tone::kPlain});
  std::array<char, 16> interval{};
  std::snprintf(interval.data(), interval.size(), "%g s", view.interval_s);
  lines.push_back({"q quit  space pause  +/- interval " + std::string(interval.data()) +
                       "   # shared  = writing  ~ cached",
                   Tone::kHeading});
  for (Line& line : lines) {
    if (line.text.size() > width) line.text.resize(width);
  }
  return lines;
}

}  // namespace zerocp::cli
