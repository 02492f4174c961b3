#include "client/cli/watch_stats.h"

#include <google/protobuf/util/time_util.h>
#include <unistd.h>

#include <cerrno>
#include <span>
#include <string>

#include "client/cli/output.h"
#include "client/cli/words.h"
#include "zerocp/v1/observer_service.grpc.pb.h"

namespace zerocp::cli {
namespace {

using Update = v1::WatchStatsResponse;

class Printer {
 public:
  explicit Printer(Format format) : format_(format) {}

  // False: it cannot be printed; the reason is.
  bool Add(const Update& update) {
    std::string text;
    if (format_ == Format::kTable) {
      text = TableOf(update);
    } else if (format_ == Format::kYaml) {
      text = "---\n" + ToYamlText(update);
    } else if (ToJson(update, /*one_line=*/true, &text)) {
      text += "\n";
    } else {
      return Fail("the numbers cannot be written as JSON");
    }
    first_ = false;
    // At a signal to stop the rest is left.
    return WriteAll(STDOUT_FILENO, std::as_bytes(std::span(text))) || StopSignal() != 0 ||
           Fail(WriteErrorText(errno));
  }
  // False, and the reason is printed: nobody can read what comes.
  bool HasReader() { return !ReaderIsGone() || Fail(WriteErrorText(EPIPE)); }
  bool failed() const { return failed_; }

 private:
  std::string TableOf(const Update& update) const {
    std::string text = (first_ ? "" : "\n") + PreciseTimeText(update.stats().read_time());
    if (const int64_t skipped = update.skipped_update_count(); skipped > 0)
      text += ", " + std::to_string(skipped) + " updates before it were not read in time";
    v1::GetStatsResponse response;
    *response.mutable_stats() = update.stats();
    return text + "\n" + TextOf(WordNamed("stats"), v1::GetStatsRequest(), response);
  }
  bool Fail(const std::string& why) {
    failed_ = true;
    Failed(kFailed, why);
    return false;
  }

  const Format format_;
  bool first_ = true;
  bool failed_ = false;
};

}  // namespace

int WatchStats(const DaemonOptions& options, double interval_s) {
  CatchStopSignals();
  DaemonConnection observer(options, "ObserverService");
  if (observer.channel() == nullptr) return observer.exit_code();
  v1::WatchStatsRequest request;
  *request.mutable_interval() = google::protobuf::util::TimeUtil::MillisecondsToDuration(
      static_cast<int64_t>(interval_s * 1000));
  const auto stub = v1::ObserverService::NewStub(observer.channel());
  Printer printer(options.format);
  grpc::ClientContext context;
  const grpc::Status status = ReadStream<Update>(
      context,
      [&](grpc::ClientContext* call, grpc::CompletionQueue* queue) {
        return stub->AsyncWatchStats(call, request, queue, nullptr);
      },
      [&](const Update& update) { return printer.Add(update); },
      [&] { return !printer.failed() && printer.HasReader(); });
  if (printer.failed()) return kFailed;
  if (StopSignal() != 0) return kDone;
  observer.Fail(status);
  return observer.exit_code();
}

}  // namespace zerocp::cli
