#include "client/cli/recv.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include "client/cli/exit_code.h"
#include "client/cli/in_place.h"
#include "client/cli/output.h"
#include "client/cli/stop_signal.h"
#include "client/cli/stream.h"

namespace zerocp::cli {
namespace {

constexpr char kCommand[] = "recv";

// Where the bytes go.
class Output {
 public:
  ~Output() {
    if (fd_ > STDOUT_FILENO) close(fd_);
  }
  // False: errno says why.
  bool Open(const RecvOptions& options) {
    if (options.output.empty() || options.output == "-") {
      fd_ = options.sha256 && options.output.empty() ? -1 : STDOUT_FILENO;
      return true;
    }
    fd_ = open(options.output.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    return fd_ >= 0;
  }
  int fd() const { return fd_; }  // -1: the bytes are only looked at
  // False: the last bytes could not be written, and errno says why.
  bool Close() { return fd_ <= STDOUT_FILENO || close(std::exchange(fd_, -1)) == 0; }

 private:
  int fd_ = -1;
};

class Receiver {
 public:
  Receiver(const RecvOptions& options, Subscriber subscriber, Output& output)
      : options_(options), subscriber_(std::move(subscriber)), output_(output) {
    if (options_.sha256) digest_.emplace();
    if (options_.verify_in_place) segment_.emplace();
  }

  int Run() {
    int code = kDone;
    while (code == kDone && !at_end_ && StopSignal() == 0 &&
           meter_.chunk_count() != options_.count) {
      code = ReceiveOne();
    }
    if (code == kDone && StopSignal() != 0) code = kSignal + StopSignal();
    subscriber_.Close();
    meter_.Report(kCommand);
    if (missed_count_ > 0) {
      std::fprintf(stderr, "recv: missed %llu messages\n",
                   static_cast<unsigned long long>(missed_count_));
    }
    if (code == kDone) code = Finish();
    return code;
  }

 private:
  // One message. Sets at_end_ at the end of the stream.
  int ReceiveOne() {
    const WaitLimit limit(options_.timeout_s);
    auto sample = subscriber_.Wait(kSlice);
    while (sample.code() == Code::kTimeout && StopSignal() == 0 && !limit.Passed()) {
      sample = subscriber_.Wait(kSlice);
    }
    switch (sample.code()) {
      case Code::kOk:
        missed_count_ += sample->missed_before();
        return Consume(sample->data());
      case Code::kEndOfStream:
        at_end_ = true;
        return kDone;
      case Code::kPublisherDied:
        return Failed(kCommand, "publisher died after " + Received());
      case Code::kTimeout:
        if (StopSignal() != 0) return kDone;
        return Failed(kCommand,
                      "nothing came in time on '" + options_.channel + "', after " + Received());
      default:
        return Failed(kCommand, sample.message() + ", after " + Received());
    }
  }

  int Consume(std::span<const std::byte> data) {
    meter_.Start();
    if (segment_ && !segment_->Contains(data)) {
      return Failed(kCommand, "bytes were received outside the chunk segment's mapping: " +
                                  segment_->Describe());
    }
    if (digest_) digest_->Add(data);
    if (output_.fd() >= 0 && !WriteAll(output_.fd(), data)) {
      if (StopSignal() != 0) return kDone;
      return Failed(kCommand, WriteErrorText(errno) + ", after " + Received());
    }
    meter_.Add(data.size());
    return kDone;
  }

  // What only counts when the whole stream came.
  int Finish() {
    if (!output_.Close()) {
      return Failed(kCommand, options_.output + ": " + std::strerror(errno));
    }
    if (segment_) std::fprintf(stderr, "recv: read in place: %s\n", segment_->Describe().c_str());
    if (digest_) {
      std::FILE* out = options_.output == "-" ? stderr : stdout;
      std::fprintf(out, "%s  %s\n", digest_->Finish().c_str(), options_.channel.c_str());
      if (std::fflush(out) != 0) return Failed(kCommand, WriteErrorText(errno));
    }
    return kDone;
  }

  std::string Received() const {
    return std::to_string(meter_.byte_count()) + " bytes in " +
           std::to_string(meter_.chunk_count()) + " chunks";
  }

  const RecvOptions& options_;
  Subscriber subscriber_;
  Meter meter_;
  std::optional<Sha256> digest_;
  std::optional<ChunkSegmentMapping> segment_;
  Output& output_;
  uint64_t missed_count_ = 0;
  bool at_end_ = false;
};

}  // namespace

int Recv(const RecvOptions& options) {
  CatchStopSignals();
  // Before joining: a sender must not start for a receiver that can write nothing.
  Output output;
  if (!output.Open(options)) {
    return Failed(kCommand, options.output + ": " + std::strerror(errno));
  }
  int code = kDone;
  auto client = ConnectOrSay(kCommand, options.runtime_dir, /*read_only=*/true, &code);
  if (!client) return code;
  auto subscriber = client->JoinAsSubscriber(options.channel, {.lossy = options.lossy});
  if (!subscriber) return Failed(kCommand, subscriber.message());
  return Receiver(options, std::move(*subscriber), output).Run();
}

}  // namespace zerocp::cli
