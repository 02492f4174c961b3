#include "server/terminations.h"

#include <spdlog/spdlog.h>

#include <cerrno>
#include <cstring>

#include "server/error.h"

namespace zerocp {

Terminations::Answers Terminations::Advance(Time now,
                                            const std::function<bool(uint16_t)>& cannot_answer,
                                            const std::function<int(uint16_t)>& kill) {
  Answers answers;
  for (auto next = waiting_.begin(); next != waiting_.end();) {
    const auto t = next++;
    const std::string pid = std::to_string(t->pid);
    absl::Status failed;
    if (t->kill && (now >= t->kill_at || cannot_answer(t->id))) {
      t->kill = false;
      const int error = kill(t->id);
      if (error == 0) killed_.set(t->id);
      spdlog::warn("killed: {} id={} pid={}{}", t->name, t->id, pid,
                   error == 0 ? "" : std::string(": ") + std::strerror(error));
      if (error != 0 && error != ESRCH) {
        failed = MakeError(
            Reason::kSignalNotPermitted,
            "process " + pid + " of " + t->name + " cannot be killed: " + std::strerror(error),
            {{"resource", t->name}, {"pid", pid}});
      }
    }
    if (failed.ok() && now >= t->give_up) {
      failed = MakeError(
          Reason::kStillAttached,
          t->name + " is revoked, and its process " + pid + " has not detached; `kill` ends it",
          {{"resource", t->name}, {"pid", pid}});
    }
    if (failed.ok()) continue;
    answers.emplace_back(std::move(t->done), failed);
    waiting_.erase(t);
  }
  return answers;
}

Terminations::Answers Terminations::Finish(const shm::SessionSet& gone) {
  Answers answers;
  killed_ &= ~gone;
  for (auto next = waiting_.begin(); next != waiting_.end();) {
    const auto t = next++;
    if (!gone.test(t->id)) continue;
    answers.emplace_back(std::move(t->done), t->held_chunk_count);
    waiting_.erase(t);
  }
  return answers;
}

Terminations::Answers Terminations::Abandon() {
  Answers answers;
  for (Termination& termination : waiting_) {
    answers.emplace_back(
        std::move(termination.done),
        MakeError(Reason::kServerDraining, "the daemon is stopping; try again when it is back"));
  }
  waiting_.clear();
  return answers;
}

}  // namespace zerocp
