// How PoolManager reserves memory, which takes seconds for a large pool: what others see meanwhile,
// and how it ends early.
#include <spdlog/spdlog.h>

#include <memory>

#include "server/error.h"
#include "server/pool_manager.h"
#include "shm/mutant.h"

namespace zerocp {
namespace {

using Clock = std::chrono::steady_clock;

// A tenth at a time, but no line in the first second and one at least every five.
constexpr std::chrono::seconds kLogSoonest{1};
constexpr std::chrono::seconds kLogLatest{5};

}  // namespace

shm::Progress PoolManager::Reserving(const std::string& name, uint64_t bytes) {
  if (on_reserve_) on_reserve_();
  struct State {
    uint64_t done = 0;
    uint64_t logged = 0;
    Clock::time_point logged_at = Clock::now();
  };
  return [this, name, bytes, state = std::make_shared<State>()](uint64_t more) {
    state->done += more;
    const auto silence = Clock::now() - state->logged_at;
    if ((silence >= kLogSoonest && state->done - state->logged >= bytes / 10) ||
        silence >= kLogLatest) {
      spdlog::info("pool {}: {} of {} bytes reserved", name, state->done, bytes);
      state->logged = state->done;
      state->logged_at = Clock::now();
    }
    return !stopping_;
  };
}

void PoolManager::SetCreating(const std::optional<shm::PoolSpec>& spec) {
  MutexLock lock(mutex_);
  creating_.reset();
  if (!spec) return;
  creating_.emplace();
  creating_->spec = *spec;
  creating_->creating = true;
}

absl::Status PoolManager::CheckNotCreating(std::string_view name) {
  MutexLock lock(mutex_);
  if (Mutant(69) || !creating_ || creating_->spec.name != name) return absl::OkStatus();
  const std::string resource = PoolResource(name);
  return MakeError(Reason::kOperationInProgress,
                   resource +
                       " is being created: its memory is being reserved, and the log tells "
                       "how far it is; try again when GetPool shows it as active",
                   {{"resource", resource}});
}

absl::Status PoolManager::Stopped(const std::string& resource) {
  return MakeError(Reason::kServerDraining,
                   "the daemon is stopping: no memory was reserved for " + resource +
                       "; try again when it is back",
                   {{"resource", resource}});
}

}  // namespace zerocp
