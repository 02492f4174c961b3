// From the configuration in force to a wanted one: what has to be done, and what that changes.
//
// Pure: nothing is done here (ConfigManager does).
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "server/channel_manager.h"
#include "server/pool_manager.h"

namespace zerocp {

// What can be changed while the daemon runs, as a whole.
struct Config {
  std::vector<shm::PoolSpec> pools;  // a pool's `chunk_count` is a minimum
  std::vector<shm::ChannelSpec> channels;
};

struct ConfigChange {
  // The values are those of zerocp.v1.ConfigChange.Action.
  enum class Action { kAdd = 1, kUpdate = 2, kRemove = 3, kKeep = 4 };

  Action action = Action::kAdd;
  std::string path;  // "pools/video", "pools/video.chunk_count"
  std::string old_value = {};
  std::string new_value = {};
};
// "+ pools/video (64 chunks of 4096 bytes)", "~ pools/audio.chunk_count 16 -> 32".
std::string Describe(const ConfigChange& change);
// Only kKeep, if anything.
bool ChangesNothing(const std::vector<ConfigChange>& changes);
// The same of all, with semicolons, cut to a log line.
std::string Describe(const std::vector<ConfigChange>& changes);

// Done in the order of the members. The order is what makes the whole atomic: what can fail comes
// before what cannot be undone.
//  1. Creations may fail, and are undone by a deletion.
//  2. Growths may fail, and are not undone: but as `chunk_count` is a minimum, a pool with more
//     chunks has its old configuration too.
//  3. Switches of auto_grow do not fail, and are undone by switching back.
//  4. Deletions cannot be undone, and do not fail: a channel is closed under its members, which
//     waits for nobody; a pool drains, which is as good as gone for a configuration.
// So a plan that fails is undone by the plan back to the old configuration, in which 1 and 2 are
// empty; and a plan that was cut off in 4 is completed by the plan to the new one, in which 1 to 3
// are.
struct ConfigPlan {
  std::vector<shm::PoolSpec> pools_to_create;
  std::vector<shm::ChannelSpec> channels_to_create;
  std::vector<PoolChange> growths;
  std::vector<PoolChange> switches;
  std::vector<std::string> channels_to_delete;
  std::vector<std::string> pools_to_delete;

  std::vector<ConfigChange> changes;  // in path order
};

// `running`: every field filled in, as the managers list them. What is wrong with `wanted` is added
// to `violations`, by fields as "pools[1].chunk_size_bytes"; then the plan is of no use. REQUIRES:
// each wanted spec is valid by itself, or `violations` says what is wrong with it.
ConfigPlan MakePlan(const Config& running, const Config& wanted,
                    std::vector<shm::Violation>& violations);
// What tells `after` from `before`, in path order. REQUIRES: every field is filled in, and no
// immutable one differs.
std::vector<ConfigChange> ChangesBetween(const Config& before, const Config& after);
// DELETION_NOT_ALLOWED if the plan deletes anything.
absl::Status RefuseDeletions(const ConfigPlan& plan);

// The configuration that is in force when the plan has been done.
Config After(const Config& running, const ConfigPlan& plan);

// Strong entity tag of a configuration in force. Not of how much a pool has grown by itself, so
// that a caller is not refused for that.
std::string EtagOf(const std::vector<PoolInfo>& pools, const std::vector<ChannelInfo>& channels);

// `config` with the pools and channels of `over` in the place of those of their names, and else
// after them.
Config Overlay(Config config, const Config& over);

}  // namespace zerocp
