#include "client/cli/top.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <utility>

#include "client/cli/output.h"
#include "client/cli/stop_signal.h"
#include "client/cli/terminal.h"
#include "client/cli/top_screen.h"

namespace zerocp::cli {
namespace {

using Clock = std::chrono::steady_clock;

constexpr double kPatienceInTop_s = 2;  // keys are not looked at meanwhile
constexpr std::array<double, 6> kIntervals_s{0.2, 0.5, 1, 2, 5, 10};

// Asks the daemon for what is shown.
class Source {
 public:
  explicit Source(const DaemonOptions& daemon)
      : connection_(daemon, "ObserverService", kPatienceInTop_s) {}

  int exit_code() const { return connection_.exit_code(); }
  bool Begin(TopView* view) {
    return connection_.Call("GetServerInfo", v1::GetServerInfoRequest(), &view->info);
  }
  // New numbers; if there are none, the reason is in the view.
  void Refresh(TopView* view) {
    v1::GetStatsResponse stats;
    v1::ListHeldChunksResponse held;
    v1::ListHeldChunksRequest request;
    request.set_page_size(1);  // the sums come with any page
    grpc::Status status = connection_.CallOnce("GetStats", v1::GetStatsRequest(), &stats);
    if (status.ok()) status = connection_.CallOnce("ListHeldChunks", request, &held);
    if (!status.ok()) {
      view->trouble = "no answer, trying again: " + status.error_message();
      was_away_ = true;
      return;
    }
    if (std::exchange(was_away_, false))
      (void)connection_.CallOnce("GetServerInfo", v1::GetServerInfoRequest(), &view->info);
    view->trouble.clear();
    view->before = std::move(view->now);
    view->now = std::move(*stats.mutable_stats());
    // Another daemon counts from 0.
    if (view->before.start_time().seconds() != view->now.start_time().seconds())
      view->before.Clear();
    view->holders.assign(held.holders().begin(), held.holders().end());
  }

 private:
  DaemonConnection connection_;
  bool was_away_ = false;
};

double NextInterval(double interval_s, int step) {
  auto at = std::lower_bound(kIntervals_s.begin(), kIntervals_s.end(), interval_s);
  if (at == kIntervals_s.end()) --at;
  const auto index = std::clamp<ptrdiff_t>(at - kIntervals_s.begin() + step, 0,
                                           static_cast<ptrdiff_t>(kIntervals_s.size()) - 1);
  return kIntervals_s[static_cast<size_t>(index)];
}

}  // namespace

int Top(const DaemonOptions& daemon, double interval_s) {
  if (isatty(STDIN_FILENO) != 1 || isatty(STDOUT_FILENO) != 1)
    return Failed(kUsage, "top needs a terminal; without one: zerocp stats --watch");
  TopView view;
  view.interval_s = interval_s;
  CatchStopSignals();
  Source source(daemon);
  if (!source.Begin(&view)) return source.exit_code();
  const auto terminal = Terminal::Open();
  if (terminal == nullptr) return kFailed;
  Clock::time_point due = Clock::now();
  for (int key = Terminal::kNoKey; key != 'q' && key != 'Q' && StopSignal() == 0;) {
    if (!view.paused && Clock::now() >= due) {
      source.Refresh(&view);
      due = Clock::now() + std::chrono::duration_cast<Clock::duration>(
                               std::chrono::duration<double>(view.interval_s));
    }
    terminal->Draw(view);
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(due - Clock::now());
    key = Terminal::Key(view.paused ? std::chrono::milliseconds(200)
                                    : std::clamp(left, std::chrono::milliseconds(0),
                                                 std::chrono::milliseconds(200)));
    if (key == ' ') view.paused = !view.paused;
    if (key == '+') view.interval_s = NextInterval(view.interval_s, 1);
    if (key == '-') view.interval_s = NextInterval(view.interval_s, -1);
    if (key == '+' || key == '-') due = Clock::now();
  }
  return kDone;
}

}  // namespace zerocp::cli
