// The dynamic configuration as a whole: what is in force, and how another one comes into force.
//
// Invariants. C1: a change that fails is undone (config_plan.h says why that is possible). C2:
// after the daemon's death in the middle of a change, its next start has the configuration from
// before or that from after it, by the journal (config_journal.h): Recover goes forward, and back
// if it cannot.
//
// Threads. All functions from any thread, one at a time. REQUIRES: nobody else creates, changes or
// deletes pools or channels meanwhile, but for pools that grow by themselves: whoever does shares a
// worker with the caller of this.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/config_file.h"
#include "server/config_journal.h"
#include "server/config_plan.h"
#include "server/core.h"
#include "server/mutex.h"

namespace zerocp {

struct ApplyMode {
  std::string etag = {};        // must be that in force; empty: any
  bool validate_only = false;   // check everything, change nothing
  bool allow_deletion = false;  // of what the wanted configuration does not have
  bool persist = false;         // to the configuration file
};

struct AppliedConfig {
  Config config;     // in force, or as it would be
  std::string etag;  // empty in a preview
  std::vector<ConfigChange> changes;
};

struct ConfigState {
  Config config;
  std::string etag;
  std::vector<ConfigChange> drift;  // what a reload of the file would change
  bool drifted = false;
  std::string file_error;
};

class ConfigManager {
 public:
  // `file`: nullptr if there is none. REQUIRES: all others outlive this.
  ConfigManager(Core& core, PoolManager& pools, ChannelManager& channels, std::string journal_path,
                const ConfigFile* file);

  // At start, before anything else changes pools or channels: completes or undoes what a daemon
  // that died was doing. An error of the journal's is logged, and what is there stays.
  void Recover();
  // What the daemon begins with: Apply for an instance that has nothing yet.
  absl::Status Begin(const Config& wanted);

  // FIELD_INVALID with fields as "config.pools[1].chunk_count", ETAG_MISMATCH,
  // DELETION_NOT_ALLOWED, POOL_DRAINING, CONFIG_FILE_UNUSABLE, and what keeps pools and channels
  // from being created.
  absl::StatusOr<AppliedConfig> Apply(const Config& wanted, const ApplyMode& mode);
  // The file's. Also CONFIG_FILE_UNUSABLE. An error is logged, and shown by Get until a reload
  // succeeds.
  absl::StatusOr<AppliedConfig> Reload(const ApplyMode& mode);
  ConfigState Get();
  // Runs `change`, which is part of no Apply or Reload, when none is under way: else
  // OPERATION_IN_PROGRESS. Changes of channels come this way; those of pools wait for their turn.
  absl::Status RunApart(const std::function<absl::Status()>& change);

 private:
  struct Running {
    Config config;
    std::string etag;
    std::vector<std::string> draining;  // pools
  };
  // Says what is wrong with a wanted configuration.
  using Refuse = std::function<absl::Status(const std::vector<shm::Violation>&)>;

  Running Read() const;
  absl::StatusOr<AppliedConfig> Change(const Config& wanted, const ApplyMode& mode,
                                       const Refuse& refuse) ZEROCP_REQUIRES(mutex_);
  // In the log and, if anything changed, the events.
  void Tell(const std::vector<ConfigChange>& changes);
  absl::Status CheckRoom(const Running& running, const ConfigPlan& plan) const;
  // Journal, steps, and the way back. `persist`: nullptr, or committed after all that can fail.
  absl::Status Carry(const ConfigJournal::Entry& entry, const ConfigPlan& plan,
                     FileReplacement* persist) ZEROCP_REQUIRES(mutex_);
  absl::Status Execute(const ConfigPlan& plan, FileReplacement* persist);
  // From whatever is there to `config`.
  absl::Status GoTo(const Config& config) ZEROCP_REQUIRES(mutex_);
  void Persist(const Config& config) ZEROCP_REQUIRES(mutex_);
  absl::StatusOr<AppliedConfig> ReloadSerially(const ApplyMode& mode) ZEROCP_REQUIRES(mutex_);

  Core& core_;
  PoolManager& pools_;
  ChannelManager& channels_;
  const ConfigFile* const file_;
  Mutex mutex_;  // before all others
  ConfigJournal journal_ ZEROCP_GUARDED_BY(mutex_);
  Mutex error_mutex_;  // apart, so that Get does not wait for a change
  std::string reload_error_ ZEROCP_GUARDED_BY(error_mutex_);
};

}  // namespace zerocp
