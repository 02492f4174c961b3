#include "client/cli/send.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include "client/cli/daemon_connection.h"
#include "client/cli/exit_code.h"
#include "client/cli/render.h"
#include "client/cli/slowness.h"
#include "client/cli/stop_signal.h"
#include "client/cli/stream.h"
#include "client/internal/find_daemon.h"
#include "shm/runtime_dir.h"
#include "zerocp/v1/observer_service.pb.h"

namespace zerocp::cli {
namespace {

constexpr char kCommand[] = "send";

// Where the bytes come from.
class Input {
 public:
  ~Input() {
    if (fd_ > STDIN_FILENO) close(fd_);
  }
  // False: errno says why.
  bool Open(const std::string& file) {
    const bool standard = file.empty() || file == "-";
    name_ = standard ? "standard input" : file;
    fd_ = standard ? STDIN_FILENO : open(file.c_str(), O_RDONLY | O_CLOEXEC);
    struct stat status {};
    if (fd_ < 0 || fstat(fd_, &status) != 0) return false;
    if (S_ISDIR(status.st_mode)) {
      errno = EISDIR;
      return false;
    }
    never_blocks_ = S_ISREG(status.st_mode);
    if (S_ISFIFO(status.st_mode)) {
      // So that a read can fill more of a chunk; the kernel may refuse.
      (void)fcntl(fd_, F_SETPIPE_SZ, 1 << 20);
    }
    return true;
  }
  // Bytes read; 0: the end; -1: errno says why, EINTR if a signal asks to stop.
  ssize_t Read(std::span<std::byte> into) const {
    for (;;) {
      if (!never_blocks_ && !WaitReadable(fd_)) {
        errno = EINTR;
        return -1;
      }
      const ssize_t count = read(fd_, into.data(), into.size());
      if (count >= 0 || StopSignal() != 0 || (errno != EINTR && errno != EAGAIN)) return count;
    }
  }
  const std::string& name() const { return name_; }

 private:
  int fd_ = -1;
  bool never_blocks_ = false;
  std::string name_;
};

// Repeats `step` in slices until it answers something else than `again`, a signal asks to stop, or
// the time is over.
template <class Step>
auto InSlices(std::optional<double> timeout_s, Code again, Step step) {
  const WaitLimit limit(timeout_s);
  auto result = step();
  while (result.code() == again && StopSignal() == 0 && !limit.Passed()) result = step();
  return result;
}

// The subscriber whose queue is full, by the daemon's numbers: a publisher has no names.
std::string WhoMadeNoRoom(const SendOptions& options) {
  const std::string head = "a subscriber of '" + options.channel + "' made no room in time";
  if (!internal::FindDaemon(options.runtime_dir, shm::kClientSocket, SOCK_STREAM).ok())
    return head + "; no daemon answers: `zerocp stats --offline` shows which";
  DaemonOptions daemon;
  daemon.runtime_dir = options.runtime_dir;
  DaemonConnection connection(daemon, "ObserverService");
  v1::GetStatsResponse response;
  connection.CallOnce("GetStats", v1::GetStatsRequest(), &response);
  const v1::SubscriberStats* slowest = nullptr;
  for (const v1::ChannelStats& channel : response.stats().channels()) {
    if (channel.channel() != "channels/" + options.channel) continue;
    for (const v1::SubscriberStats& subscriber : channel.subscribers()) {
      if (subscriber.state() == v1::SubscriberStats::STATE_ACTIVE &&
          subscriber.fullest_queued_count() >= subscriber.queue_capacity() &&
          (slowest == nullptr || IsSlower(subscriber, *slowest)))
        slowest = &subscriber;
    }
  }
  if (slowest == nullptr) return head + "; `zerocp stats` shows who is slow";
  const std::string stalled = DurationText(slowest->stalled_for());
  return head + ": " + slowest->subscriber() + " of \"" + slowest->client_name() + "\" (" +
         slowest->session() + ") has " + std::to_string(slowest->fullest_queued_count()) + " of " +
         std::to_string(slowest->queue_capacity()) + " messages of a publisher to take" +
         (stalled == "-" ? "" : ", and took none for " + stalled) +
         "; `zerocp subscribers detach " + slowest->subscriber() +
         "` lets publishers go on without it";
}

class Sender {
 public:
  Sender(const SendOptions& options, Publisher publisher)
      : options_(options), publisher_(std::move(publisher)) {}

  int Run(const Input& input) {
    if (int code = WaitForSubscriber(); code != kDone) return code;
    int code;
    do {
      code = SendOne(input);
    } while (code == kDone && !at_end_ && StopSignal() == 0);
    publisher_.Close();
    meter_.Report(kCommand);
    return code == kDone && StopSignal() != 0 ? kSignal + StopSignal() : code;
  }

 private:
  int WaitForSubscriber() {
    if (options_.no_wait) return kDone;
    auto present = publisher_.WaitForSubscribers(1, std::chrono::nanoseconds{0});
    if (present.code() == Code::kTimeout) {
      std::fprintf(stderr, "zerocp send: waiting for a subscriber (`zerocp recv %s`)\n",
                   options_.channel.c_str());
      present = InSlices(options_.timeout_s, Code::kTimeout,
                         [&] { return publisher_.WaitForSubscribers(1, kSlice); });
    }
    if (StopSignal() != 0) return kSignal + StopSignal();
    if (present) return kDone;
    return Failed(kCommand, present.code() == Code::kTimeout
                                ? "channel '" + options_.channel + "' got no subscriber in time"
                                : present.message());
  }

  // One read, one message. Sets at_end_ when there is nothing left to read.
  int SendOne(const Input& input) {
    auto loan = InSlices(options_.timeout_s, Code::kExhausted,
                         [&] { return publisher_.NewLoan(publisher_.max_bytes(), kSlice); });
    if (StopSignal() != 0) return kDone;
    if (!loan) return Failed(kCommand, loan.message());
    meter_.Start();
    const ssize_t count = input.Read(loan->data());
    if (count < 0) {
      return StopSignal() != 0 ? int{kDone}
                               : Failed(kCommand, input.name() + ": " + std::strerror(errno));
    }
    at_end_ = count == 0;
    if (at_end_) return kDone;
    loan->set_size(static_cast<size_t>(count));
    auto published = InSlices(options_.timeout_s, Code::kTimeout,
                              [&] { return publisher_.Publish(*loan, kSlice); });
    if (!published)
      return StopSignal() != 0 ? int{kDone} : Failed(kCommand, WhyNotPublished(published));
    if (published->delivered == 0 && !options_.no_wait) {
      return Failed(kCommand, "the last subscriber of '" + options_.channel + "' left after " +
                                  std::to_string(meter_.byte_count()) +
                                  " bytes; --no-wait sends without one");
    }
    meter_.Add(static_cast<uint64_t>(count));
    return kDone;
  }

  std::string WhyNotPublished(const Result<Published>& published) const {
    return published.code() == Code::kTimeout ? WhoMadeNoRoom(options_) : published.message();
  }

  const SendOptions& options_;
  Publisher publisher_;
  Meter meter_;
  bool at_end_ = false;
};

}  // namespace

int Send(const SendOptions& options) {
  CatchStopSignals();
  // Before joining: subscribers must not take a file that is not there for an empty one.
  Input input;
  if (!input.Open(options.file)) {
    return Failed(kCommand, input.name() + ": " + std::strerror(errno));
  }
  int code = kDone;
  auto client = ConnectOrSay(kCommand, options.runtime_dir, /*read_only=*/false, &code);
  if (!client) return code;
  auto publisher = client->JoinAsPublisher(options.channel);
  if (!publisher) return Failed(kCommand, publisher.message());
  return Sender(options, std::move(*publisher)).Run(input);
}

}  // namespace zerocp::cli
