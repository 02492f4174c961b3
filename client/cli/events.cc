#include "client/cli/events.h"

#include <grpcpp/grpcpp.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <span>
#include <string>
#include <utility>

#include "client/cli/exit_code.h"
#include "client/cli/output.h"
#include "client/cli/stop_signal.h"
#include "shm/mutant.h"
#include "zerocp/v1/observer_service.grpc.pb.h"

namespace zerocp::cli {
namespace {

using Event = v1::WatchEventsResponse;
using Observer = v1::ObserverService;

// Columns of fixed widths: lines are printed before the next ones are known.
std::string Line(std::string number, std::string time, std::string kind, std::string resource,
                 const std::string& what) {
  number.insert(0, number.size() < 6 ? 6 - number.size() : 0, ' ');
  time.resize(std::max(time.size(), size_t{24}), ' ');
  kind.resize(std::max(kind.size(), size_t{20}), ' ');
  resource.resize(std::max(resource.size(), size_t{26}), ' ');
  return number + "  " + time + "  " + kind + "  " + resource + "  " + what + "\n";
}

class Printer {
 public:
  Printer(const EventsOptions& options, Format format) : format_(format), last_(options.after) {
    if (options.since_s) {
      earliest_ = std::chrono::system_clock::now() -
                  std::chrono::duration_cast<std::chrono::system_clock::duration>(
                      std::chrono::duration<double>(*options.since_s));
    }
    if (format_ == Format::kTable) Write(Line("EVENT", "TIME", "KIND", "RESOURCE", "WHAT"));
  }
  // False: it cannot be printed; the reason is.
  bool Add(const Event& event) {
    const int64_t before = std::exchange(last_, event.sequence());
    if (TimeIn(event) < earliest_) return true;
    std::string line = Gap(before, event.sequence());
    if (format_ == Format::kTable) {
      line += Line(std::to_string(event.sequence()), PreciseTimeText(event.time()),
                   WordOf(*Event::Kind_descriptor(), event.kind()), Printable(event.resource()),
                   Printable(event.detail()));
    } else {
      std::fputs(line.c_str(), stderr);
      line.clear();
      if (format_ == Format::kYaml) return Write("---\n" + ToYamlText(event));
      if (!ToJson(event, /*one_line=*/true, &line))
        return Fail("event " + std::to_string(last_) + " cannot be written as JSON");
      line += '\n';
    }
    return Write(line);
  }
  // False, and the reason is printed: nobody can read what comes.
  bool HasReader() { return !ReaderIsGone() || Fail(WriteErrorText(EPIPE)); }
  int64_t last() const { return last_; }
  bool failed() const { return failed_; }

 private:
  // Unbuffered: whoever follows sees a line when it happens. At a signal to stop the rest is left.
  bool Write(const std::string& text) {
    return WriteAll(STDOUT_FILENO, std::as_bytes(std::span(text))) || StopSignal() != 0 ||
           Fail(WriteErrorText(errno));
  }
  bool Fail(const std::string& why) {
    failed_ = true;
    Failed(kFailed, why);
    return false;
  }
  static std::chrono::system_clock::time_point TimeIn(const Event& event) {
    return std::chrono::system_clock::time_point(
        std::chrono::duration_cast<std::chrono::system_clock::duration>(
            std::chrono::seconds(event.time().seconds()) +
            std::chrono::nanoseconds(event.time().nanos())));
  }
  // What is to be said between the numbers of two events; empty: nothing is missing.
  static std::string Gap(int64_t before, int64_t sequence) {
    if (sequence == before + 1 || Mutant(30)) return {};
    if (sequence <= before) {
      return "-- event " + std::to_string(before) +
             " was another daemon's: this one started later, and its events follow\n";
    }
    return "-- events " + std::to_string(before + 1) + " to " + std::to_string(sequence - 1) +
           " are missing: newer ones took their places before they were read\n";
  }

  const Format format_;
  int64_t last_;
  bool failed_ = false;
  std::chrono::system_clock::time_point earliest_ = std::chrono::system_clock::time_point::min();
};

// Prints the events of one call. CANCELLED if one cannot be printed, and at a signal to stop.
grpc::Status Watch(Observer::Stub& stub, grpc::ClientContext& context, bool stop_at_end,
                   Printer& printer) {
  v1::WatchEventsRequest request;
  request.set_after_sequence(printer.last());
  request.set_stop_at_end(stop_at_end);
  return ReadStream<Event>(
      context,
      [&](grpc::ClientContext* call, grpc::CompletionQueue* queue) {
        return stub.AsyncWatchEvents(call, request, queue, nullptr);
      },
      [&](const Event& event) { return !printer.failed() && printer.Add(event); },
      [&] { return !printer.failed() && printer.HasReader(); });
}

}  // namespace

int Events(const DaemonOptions& daemon, const EventsOptions& options) {
  if (options.follow) CatchStopSignals();
  DaemonConnection observer(daemon, "ObserverService");
  if (observer.channel() == nullptr) return observer.exit_code();
  const auto stub = Observer::NewStub(observer.channel());
  Printer printer(options, daemon.format);
  grpc::ClientContext kept;
  observer.LimitWait(&kept);
  grpc::Status status = Watch(*stub, kept, /*stop_at_end=*/true, printer);
  if (status.ok() && !printer.failed() && options.follow) {
    grpc::ClientContext coming;
    status = Watch(*stub, coming, /*stop_at_end=*/false, printer);
    if (StopSignal() == 0 && IsAbsent(status)) {
      return Failed(kNotReachable, "the daemon at " + observer.address() +
                                       " has gone after event " + std::to_string(printer.last()) +
                                       " (" + status.error_message() +
                                       "); start it, then follow again");
    }
  }
  if (printer.failed()) return kFailed;
  if (status.ok() || (options.follow && StopSignal() != 0)) return kDone;
  observer.Fail(status);
  return observer.exit_code();
}

}  // namespace zerocp::cli
