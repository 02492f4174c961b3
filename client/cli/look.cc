#include "client/cli/look.h"

#include <absl/strings/str_format.h>
#include <google/protobuf/timestamp.pb.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cinttypes>
#include <cstdio>
#include <limits>
#include <span>
#include <thread>
#include <utility>

#include "client/cli/exit_code.h"
#include "client/cli/output.h"
#include "client/cli/stop_signal.h"
#include "client/cli/stream.h"
#include "client/cli/table.h"
#include "shm/mutant.h"

namespace zerocp::cli {
namespace {

using Clock = std::chrono::steady_clock;

std::string Now() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  google::protobuf::Timestamp time;
  time.set_seconds(std::chrono::duration_cast<std::chrono::seconds>(now).count());
  time.set_nanos(static_cast<int32_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(now).count() % 1'000'000'000));
  return PreciseTimeText(time);
}

// A subscriber in nobody's way.
class Viewer {
 public:
  Viewer(const char* command, const LookOptions& options)
      : command_(command),
        client_(ConnectOrSay(command, options.runtime_dir, /*read_only=*/true, &exit_code_)) {
    if (!client_) return;
    auto joined =
        client_->JoinAsSubscriber(options.channel, {.queue_capacity = 1, .lossy = !Mutant(111)});
    if (!joined) {
      exit_code_ = Failed(command_, joined.message());
      return;
    }
    subscriber_ = std::move(*joined);
    joined_ = true;
  }
  bool joined() const { return joined_; }
  int exit_code() const { return exit_code_; }

  // The next message. kTimeout after at most `wait`, and when publishers come and go.
  Result<Sample> Next(std::chrono::nanoseconds wait) {
    Result<Sample> sample = subscriber_.Wait(wait);
    switch (sample.code()) {
      case Code::kOk:
      case Code::kTimeout:
        break;
      case Code::kEndOfStream:
        std::fprintf(stderr, "-- the last publisher has left\n");
        break;
      case Code::kPublisherDied:
        std::fprintf(stderr, "-- a publisher died\n");
        break;
      default:
        exit_code_ = Failed(command_, sample.message());
        joined_ = false;
    }
    return sample;
  }
  // False, and the reason is printed: it cannot be written, or a signal asks to stop.
  bool Write(const std::string& text) {
    if (WriteAll(STDOUT_FILENO, std::as_bytes(std::span(text)))) return true;
    if (StopSignal() == 0) exit_code_ = Failed(command_, WriteErrorText(errno));
    joined_ = false;
    return false;
  }
  // Nobody can read what comes.
  bool HasReader() {
    if (!ReaderIsGone()) return true;
    exit_code_ = Failed(command_, WriteErrorText(EPIPE));
    return false;
  }

 private:
  const char* const command_;
  int exit_code_ = kDone;
  std::optional<Client> client_;
  Subscriber subscriber_;
  bool joined_ = false;
};

// What is shown of a message after it was let go.
struct Look {
  uint64_t sequence = 0;
  uint64_t missed_before = 0;
  size_t size = 0;
  std::string bytes;
};

Look LookAt(const Sample& sample, size_t shown_bytes) {
  const auto data = sample.data().first(std::min(sample.data().size(), shown_bytes));
  return {sample.sequence(), sample.missed_before(), sample.data().size(),
          std::string(reinterpret_cast<const char*>(data.data()), data.size())};
}

std::string Hex(const std::string& bytes, const char* between) {
  std::string text;
  for (const char byte : bytes)
    text += (text.empty() ? "" : between) +
            absl::StrFormat("%02x", static_cast<unsigned>(static_cast<unsigned char>(byte)));
  return text;
}

std::string LineOf(const Look& look, const LookOptions& options) {
  if (options.format != Format::kTable) {
    return (options.format == Format::kYaml ? "--- {\"time\": \"" : "{\"time\": \"") + Now() +
           absl::StrFormat("\", \"sequence\": %" PRIu64 ", \"missed_before\": %" PRIu64
                           ", \"size\": %zu, \"bytes\": \"",
                           look.sequence, look.missed_before, look.size) +
           Hex(look.bytes, "") + "\"}\n";
  }
  std::string line;
  if (look.missed_before > 0)
    line = "-- " + std::to_string(look.missed_before) + " came faster than they were shown\n";
  std::string printable = look.bytes;
  for (char& c : printable)
    if (c < ' ' || c > '~') c = '.';
  line += Now() + absl::StrFormat("  #%-8" PRIu64 " %10zu bytes", look.sequence, look.size);
  if (!look.bytes.empty()) line += "  " + Hex(look.bytes, " ") + "  " + printable;
  return line + "\n";
}

// What came in one interval.
class Tally {
 public:
  void Add(const Sample& sample) {
    const Clock::time_point now = Clock::now();
    ++seen_;
    unseen_ += sample.missed_before();
    bytes_ += sample.data().size();
    // Of messages that came one after the other.
    if (last_ && sample.missed_before() == 0) {
      const double gap_s = std::chrono::duration<double>(now - *last_).count();
      ++gaps_;
      least_s_ = std::min(least_s_, gap_s);
      most_s_ = std::max(most_s_, gap_s);
    }
    last_ = now;
  }
  uint64_t seen() const { return seen_; }
  // Its numbers, and it starts again; the time between messages goes on.
  std::string Line(double seconds, Format format) {
    const uint64_t count = seen_ + unseen_;
    const double rate = static_cast<double>(count) / seconds;
    const double size = seen_ == 0 ? 0 : static_cast<double>(bytes_) / static_cast<double>(seen_);
    std::string line;
    if (format == Format::kTable) {
      std::string byte_rate = FormatBytes(static_cast<int64_t>(rate * size)) + "/s";
      std::string mean = FormatBytes(static_cast<int64_t>(size));
      line = Now() + absl::StrFormat("  %10.1f  %12s  %10s  %9s  %9s  %9" PRIu64 "  %9" PRIu64 "\n",
                                     rate, byte_rate.c_str(), mean.c_str(), Gap(least_s_).c_str(),
                                     Gap(most_s_).c_str(), seen_, unseen_);
    } else {
      line = (format == Format::kYaml ? "--- {\"time\": \"" : "{\"time\": \"") + Now() +
             absl::StrFormat("\", \"rate\": %.3f, \"mean_size\": %.1f, \"seen\": %" PRIu64
                             ", \"unseen\": %" PRIu64 "}\n",
                             rate, size, seen_, unseen_);
    }
    const std::optional<Clock::time_point> last = last_;
    *this = Tally();
    last_ = last;
    return line;
  }

 private:
  std::string Gap(double seconds) const {
    return gaps_ == 0 ? "-" : absl::StrFormat("%.3f ms", seconds * 1000);
  }

  uint64_t seen_ = 0;
  uint64_t unseen_ = 0;  // passed by between two looks
  uint64_t bytes_ = 0;
  uint64_t gaps_ = 0;
  double least_s_ = std::numeric_limits<double>::infinity();
  double most_s_ = 0;
  std::optional<Clock::time_point> last_;
};

constexpr char kHzHeading[] =
    "TIME                      MESSAGES/S         BYTES   MEAN SIZE  "
    "LEAST GAP   MOST GAP       SEEN     UNSEEN\n";

}  // namespace

int Tap(const LookOptions& options) {
  CatchStopSignals();
  Viewer viewer("tap", options);
  uint64_t shown = 0;
  WaitLimit limit(options.timeout_s);
  while (viewer.joined() && StopSignal() == 0 && shown != options.count) {
    Result<Sample> sample = viewer.Next(kSlice);
    if (sample) {
      const Look look = LookAt(*sample, options.shown_bytes);
      *sample = Sample();  // let go before the output can make it wait
      if (viewer.Write(LineOf(look, options))) ++shown;
      limit = WaitLimit(options.timeout_s);
    } else if (!viewer.HasReader()) {
      break;
    } else if (limit.Passed()) {
      return Failed("tap", "nothing came in time on '" + options.channel + "', after " +
                               std::to_string(shown) + " messages");
    }
  }
  return viewer.exit_code();
}

int Hz(const LookOptions& options) {
  // A take each of so many messages, then one per millisecond: the others are counted as missed,
  // and publishers do not share the cache lines with somebody who looks all the time.
  constexpr uint64_t kMostWithoutNap = 200;
  CatchStopSignals();
  Viewer viewer("hz", options);
  Tally tally;
  const auto interval = std::chrono::duration_cast<Clock::duration>(
      std::chrono::duration<double>(options.interval_s));
  if (viewer.joined() && options.format == Format::kTable) viewer.Write(kHzHeading);
  Clock::time_point begin = Clock::now();
  for (uint64_t lines = 0; viewer.joined() && StopSignal() == 0 && lines != options.count;) {
    const Clock::time_point now = Clock::now();
    if (now - begin >= interval) {
      const double seconds = std::chrono::duration<double>(now - begin).count();
      if (viewer.Write(tally.Line(seconds, options.format)) && viewer.HasReader()) ++lines;
      begin = now;
      continue;
    }
    const auto left = std::min<Clock::duration>(interval - (now - begin), kSlice);
    if (const Result<Sample> sample = viewer.Next(left); sample) tally.Add(*sample);
    if (tally.seen() > kMostWithoutNap) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return viewer.exit_code();
}

}  // namespace zerocp::cli
