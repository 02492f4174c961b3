#include "server/cleanup.h"

#include <spdlog/spdlog.h>

#include <algorithm>

#include "server/instance.h"
#include "shm/mutant.h"

namespace zerocp {

std::vector<LeftBehind> Cleaner::Run(const CleanupScope& scope) {
  std::vector<LeftBehind> found;
  if (scope.dead_sessions) AddDeadSessions(scope.execute, &found);
  if (scope.stale_segments) AddStaleSegments(scope.execute, &found);
  return found;
}

void Cleaner::AddDeadSessions(bool execute, std::vector<LeftBehind>* found) {
  const std::vector<SessionInfo> sessions = sessions_.ListWithHeld();  // before they are recovered
  const shm::SessionSet dead = find_dead_(execute);
  for (const SessionInfo& session : sessions) {
    if (session.id == 0 || !dead.test(session.id)) continue;
    found->push_back({LeftBehind::Kind::kDeadSession, session.name,
                      fmt::format("its process, pid {}, is gone", session.pid),
                      session.held_chunk_count});
  }
  std::sort(found->begin(), found->end(),
            [](const LeftBehind& a, const LeftBehind& b) { return a.name < b.name; });
}

void Cleaner::AddStaleSegments(bool execute, std::vector<LeftBehind>* found) {
  const shm::MemPoolManager::CreateOptions& own = core_.manager->options();
  for (const std::string& instance : InstancesIn(own.segment_dir)) {
    if (instance == own.instance) continue;
    shm::MemPoolManager::CreateOptions options = own;
    options.instance = instance;
    const auto names = CleanUpInstance(options, /*preview=*/Mutant(66) ? false : !execute);
    if (!names.ok()) {
      spdlog::debug("cleanup: instance \"{}\" is left alone: {}", instance,
                    names.status().message());
      continue;
    }
    for (const std::string& name : *names) {
      if (execute) spdlog::info("cleanup: removed {}/{}", own.segment_dir, name);
      found->push_back(
          {LeftBehind::Kind::kStaleSegment, name,
           fmt::format("no daemon of instance \"{}\" runs, and no process maps it", instance)});
    }
  }
}

}  // namespace zerocp
