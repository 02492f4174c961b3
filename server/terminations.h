// Sessions that an operator ended, and who waits to hear that they are gone.
//
// Threads: its owner's lock. The answers are sent without one (Send).
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <list>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "shm/recovery.h"

namespace zerocp {

inline constexpr std::chrono::seconds kKillGrace{2};

class Terminations {
 public:
  using Terminated = std::function<void(absl::StatusOr<uint64_t>)>;
  using Answers = std::vector<std::pair<Terminated, absl::StatusOr<uint64_t>>>;
  using Time = std::chrono::steady_clock::time_point;

  struct Termination {
    uint16_t id;
    std::string name;
    uint64_t held_chunk_count;
    pid_t pid;
    bool kill;  // and not done yet
    Time kill_at;
    Time give_up;
    Terminated done;
  };

  // Whether Advance killed the session's process, until the session is gone.
  bool Killed(uint16_t id) const { return killed_.test(id); }
  void Add(Termination termination) { waiting_.push_back(std::move(termination)); }
  // Kills whoever is to be killed by now; the answers of those that failed or waited too long. See
  // SessionManager::AdvanceTerminations.
  Answers Advance(Time now, const std::function<bool(uint16_t)>& cannot_answer,
                  const std::function<int(uint16_t)>& kill);
  // The answers of those whose session is in `gone`.
  Answers Finish(const shm::SessionSet& gone);
  // All of them: the daemon stops.
  Answers Abandon();
  // REQUIRES: no lock is held.
  static void Send(Answers&& answers) {
    for (auto& [done, answer] : answers) done(std::move(answer));
  }

 private:
  std::list<Termination> waiting_;
  shm::SessionSet killed_;
};

}  // namespace zerocp
