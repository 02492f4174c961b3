#include "server/config_manager.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "server/error.h"
#include "shm/mutant.h"

namespace zerocp {
namespace {

std::string Text(const absl::Status& status) { return std::string(status.message()); }

absl::Status RefuseRequest(const std::vector<shm::Violation>& violations) {
  return InvalidArgument(violations, "config.");
}

absl::Status NoJournal(const shm::Status& status) {
  spdlog::error("configuration: {}", status.message());
  return MakeError(Reason::kInternal,
                   "nothing was changed: the journal of the change cannot be written; the daemon's "
                   "log says why");
}

}  // namespace

ConfigManager::ConfigManager(Core& core, PoolManager& pools, ChannelManager& channels,
                             std::string journal_path, const ConfigFile* file)
    : core_(core),
      pools_(pools),
      channels_(channels),
      file_(file),
      journal_(std::move(journal_path), UuidText(core.manager->instance_uuid())) {}

ConfigManager::Running ConfigManager::Read() const {
  Running running;
  std::vector<PoolInfo> pools = pools_.List();
  const std::vector<ChannelInfo> channels = channels_.List();
  for (const PoolInfo& pool : pools) {
    if (pool.draining) {
      running.draining.push_back(pool.spec.name);
    } else {
      running.config.pools.push_back(pool.spec);
    }
  }
  std::erase_if(pools, [](const PoolInfo& pool) { return pool.draining; });
  for (const ChannelInfo& channel : channels) running.config.channels.push_back(channel.spec);
  running.etag = EtagOf(pools, channels);
  return running;
}

absl::Status ConfigManager::CheckRoom(const Running& running, const ConfigPlan& plan) const {
  std::vector<shm::PoolSpec> created;
  for (const shm::PoolSpec& pool : plan.pools_to_create) {
    const auto& draining = running.draining;
    if (std::find(draining.begin(), draining.end(), pool.name) != draining.end())
      return pools_.Create(pool, {.validate_only = true}).status();  // it is being deleted
    created.push_back(shm::WithDefaults(pool));
  }
  const size_t pool_count = running.config.pools.size() + running.draining.size() + created.size();
  if (pool_count > shm::kMaxPools) {
    return MakeError(
        Reason::kPoolLimit,
        fmt::format("there would be {} pools at once, with {} that are being deleted and {} to be "
                    "deleted, and an instance holds {}: delete those first",
                    pool_count, running.draining.size(), plan.pools_to_delete.size(),
                    shm::kMaxPools),
        {{"resource", "pools"}, {"limit", std::to_string(shm::kMaxPools)}});
  }
  return pools_.CheckSpace(created, plan.growths).status();
}

absl::Status ConfigManager::Begin(const Config& wanted) {
  MutexLock lock(mutex_);
  return Change(wanted, {}, RefuseRequest).status();
}

absl::StatusOr<AppliedConfig> ConfigManager::Apply(const Config& wanted, const ApplyMode& mode) {
  MutexLock lock(mutex_);
  absl::StatusOr<AppliedConfig> applied = Change(wanted, mode, RefuseRequest);
  if (applied.ok() && !mode.validate_only) Tell(applied->changes);
  return applied;
}

void ConfigManager::Tell(const std::vector<ConfigChange>& changes) {
  if (ChangesNothing(changes)) {
    spdlog::info("configuration: as it was");
    return;
  }
  spdlog::info("configuration: changed: {}", Describe(changes));
  core_.events.Add(EventKind::kConfigChanged, "", Describe(changes));
}

absl::StatusOr<AppliedConfig> ConfigManager::Change(const Config& wanted, const ApplyMode& mode,
                                                    const Refuse& refuse) {
  const Running running = Read();
  if (absl::Status status = CheckEtag("config", running.etag, mode.etag); !status.ok())
    return status;
  std::vector<shm::Violation> violations;
  ConfigPlan plan = MakePlan(running.config, wanted, violations);
  if (!violations.empty()) return refuse(violations);
  if (!mode.allow_deletion) {
    if (absl::Status status = RefuseDeletions(plan); !status.ok()) return status;
  }
  if (absl::Status status = CheckRoom(running, plan); !status.ok()) return status;
  std::optional<FileReplacement> persist;
  if (mode.persist) {
    if (file_ == nullptr) {
      return MakeError(Reason::kConfigFileUnusable,
                       "there is no file to persist to: the daemon was started without --config",
                       {{"resource", "config"}});
    }
    absl::StatusOr<FileReplacement> prepared = file_->Prepare(wanted);
    if (!prepared.ok()) return prepared.status();
    persist.emplace(*std::move(prepared));
  }
  if (mode.validate_only) return AppliedConfig{After(running.config, plan), "", plan.changes};
  const absl::Status done =
      Carry({running.config, wanted, mode.persist}, plan, persist ? &*persist : nullptr);
  if (!done.ok()) return done;
  Running after = Read();
  return AppliedConfig{std::move(after.config), std::move(after.etag), std::move(plan.changes)};
}

absl::Status ConfigManager::Carry(const ConfigJournal::Entry& entry, const ConfigPlan& plan,
                                  FileReplacement* persist) {
  if (ChangesNothing(plan.changes) && persist == nullptr) return absl::OkStatus();
  if (!Mutant(56)) {
    if (const shm::Status written = journal_.Write(entry); !written.ok()) return NoJournal(written);
  }
  absl::Status done = Execute(plan, persist);
  if (!done.ok() && !Mutant(58)) {
    spdlog::warn("configuration: a change fails and is undone: {}", Text(done));
    if (const absl::Status undone = GoTo(entry.old_config); !undone.ok())
      spdlog::error("configuration: a change that failed is not undone: {}", Text(undone));
  }
  if (const shm::Status removed = journal_.Remove(); !removed.ok())
    spdlog::error("configuration: {}", removed.message());
  return done;
}

absl::Status ConfigManager::Execute(const ConfigPlan& plan, FileReplacement* persist) {
  for (const shm::PoolSpec& pool : plan.pools_to_create) {
    if (absl::Status status = pools_.Create(pool).status(); !status.ok()) return status;
  }
  for (const shm::ChannelSpec& channel : plan.channels_to_create) {
    if (absl::Status status = channels_.Create(channel).status(); !status.ok()) return status;
  }
  for (const auto* changes : {&plan.growths, &plan.switches}) {
    for (const PoolChange& change : *changes) {
      if (absl::Status status = pools_.Update(change).status(); !status.ok()) return status;
    }
  }
  if (persist != nullptr) {
    if (const shm::Status committed = persist->Commit(); !committed.ok())
      return file_->Unusable(committed.message());
  }
  for (const std::string& name : plan.channels_to_delete) {
    absl::Status status = channels_.Delete(name, /*even_if_in_use=*/true, /*allow_missing=*/true);
    if (!status.ok()) return status;
  }
  for (const std::string& name : plan.pools_to_delete) {
    absl::Status status =
        pools_.Delete({.name = name, .allow_missing = true, .drain = true}).status();
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status ConfigManager::GoTo(const Config& config) {
  std::vector<shm::Violation> violations;
  const ConfigPlan plan = MakePlan(Read().config, config, violations);
  if (!violations.empty()) return InvalidArgument(violations, "config.");
  return Execute(plan, nullptr);
}

void ConfigManager::Persist(const Config& config) {
  if (file_ == nullptr) {
    spdlog::warn("configuration: not written to a file: there is no --config any more");
    return;
  }
  absl::StatusOr<FileReplacement> prepared = file_->Prepare(config);
  const std::string error = prepared.ok() ? prepared->Commit().message() : Text(prepared.status());
  if (!error.empty()) spdlog::error("configuration: in force, but not in the file: {}", error);
}

void ConfigManager::Recover() {
  MutexLock lock(mutex_);
  const auto entry = journal_.Read();
  if (!entry.ok()) spdlog::error("configuration: {}", entry.status().message());
  if (entry.ok() && *entry && !Mutant(57)) {
    spdlog::warn("configuration: the daemon before died while it was changed");
    const absl::Status forward = GoTo((*entry)->new_config);
    if (forward.ok()) {
      if ((*entry)->persist) Persist((*entry)->new_config);
      spdlog::info("configuration: the change is complete now");
    } else {
      spdlog::warn("configuration: the change cannot be completed: {}", Text(forward));
      const absl::Status back = GoTo((*entry)->old_config);
      if (back.ok()) {
        spdlog::info("configuration: the change is undone");
      } else {
        spdlog::error("configuration: the change cannot be undone either: {}", Text(back));
      }
    }
  }
  if (const shm::Status removed = journal_.Remove(); !removed.ok())
    spdlog::error("configuration: {}", removed.message());
}

absl::Status ConfigManager::RunApart(const std::function<absl::Status()>& change) {
  if (!mutex_.try_lock()) {
    return MakeError(Reason::kOperationInProgress,
                     "the configuration is being changed; try again when that is done",
                     {{"resource", "config"}});
  }
  absl::Status status = change();
  mutex_.unlock();
  return status;
}

absl::StatusOr<AppliedConfig> ConfigManager::ReloadSerially(const ApplyMode& mode) {
  if (file_ == nullptr) {
    return MakeError(Reason::kConfigFileUnusable,
                     "there is no file to read again: the daemon was started without --config",
                     {{"resource", "config"}});
  }
  absl::StatusOr<ConfigFile::Content> content = file_->Read();
  if (!content.ok()) {
    if (!Mutant(59)) return content.status();
    content = ConfigFile::Content();
  }
  return Change(content->config, mode, [&](const std::vector<shm::Violation>& violations) {
    return file_->Refuse(*content, violations);
  });
}

absl::StatusOr<AppliedConfig> ConfigManager::Reload(const ApplyMode& mode) {
  MutexLock lock(mutex_);
  absl::StatusOr<AppliedConfig> reloaded = ReloadSerially(mode);
  if (mode.validate_only) return reloaded;
  const std::string error = reloaded.ok() ? "" : Text(reloaded.status());
  if (reloaded.ok()) {
    Tell(reloaded->changes);
  } else {
    spdlog::error("configuration: stays as it is: {}", error);
    core_.events.Add(EventKind::kConfigRefused, "", error);
  }
  MutexLock error_lock(error_mutex_);
  reload_error_ = error;
  return reloaded;
}

ConfigState ConfigManager::Get() {
  Running running = Read();
  ConfigState state{std::move(running.config), std::move(running.etag), {}, false, {}};
  if (file_ == nullptr) return state;
  const absl::StatusOr<ConfigFile::Content> content = file_->Read();
  if (!content.ok()) {
    state.file_error = Text(content.status());
  } else {
    std::vector<shm::Violation> violations;
    ConfigPlan plan = MakePlan(state.config, content->config, violations);
    state.drift = std::move(plan.changes);
    std::erase_if(state.drift, [](const ConfigChange& change) {
      return change.action == ConfigChange::Action::kKeep;
    });
    MutexLock lock(error_mutex_);
    state.file_error =
        violations.empty() ? reload_error_ : Text(file_->Refuse(*content, violations));
  }
  state.drifted = !state.drift.empty() || !state.file_error.empty();
  return state;
}

}  // namespace zerocp
