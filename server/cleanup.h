// What dead processes and dead daemons left behind: found, and removed if asked to.
//
// Threads. One call at a time.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "server/core.h"
#include "server/session_manager.h"

namespace zerocp {

struct LeftBehind {
  enum class Kind { kDeadSession, kStaleSegment };
  Kind kind = Kind::kDeadSession;
  std::string name;    // of the session's resource, or of the file in the segment directory
  std::string reason;  // why it counts as left behind
  uint64_t chunk_count = 0;
};

// What a cleanup is about.
struct CleanupScope {
  bool dead_sessions = true;
  bool stale_segments = true;
  bool execute = false;  // else nothing is changed
};

class Cleaner {
 public:
  // Sessions whose process is gone; `recover`: recovered when it returns. See AttachListener.
  using FindDead = std::function<shm::SessionSet(bool recover)>;

  // REQUIRES: all outlive this.
  Cleaner(Core& core, SessionDirectory& sessions, FindDead find_dead)
      : core_(core), sessions_(sessions), find_dead_(std::move(find_dead)) {}

  // What was removed, or would be; sessions first, each kind in name order. What cannot be removed
  // (a daemon owns it, a process uses it, it is not this user's) is not part of it.
  std::vector<LeftBehind> Run(const CleanupScope& scope);

 private:
  void AddDeadSessions(bool execute, std::vector<LeftBehind>* found);
  void AddStaleSegments(bool execute, std::vector<LeftBehind>* found);

  Core& core_;
  SessionDirectory& sessions_;
  const FindDead find_dead_;
};

}  // namespace zerocp
