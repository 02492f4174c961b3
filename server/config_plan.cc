#include "server/config_plan.h"

#include <openssl/sha.h>
#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <set>

#include "server/error.h"

namespace zerocp {
namespace {

using Action = ConfigChange::Action;
using Violations = std::vector<shm::Violation>;

constexpr size_t kMaxNamed = 8;  // resources in a message
constexpr size_t kMaxDescription = 400;

template <class Spec>
const Spec* Find(const std::vector<Spec>& specs, std::string_view name) {
  const auto found =
      std::find_if(specs.begin(), specs.end(), [&](const Spec& spec) { return spec.name == name; });
  return found == specs.end() ? nullptr : &*found;
}

std::string Text(const shm::PoolSpec& pool) {
  const shm::PoolSpec full = shm::WithDefaults(pool);
  return fmt::format("{} of {} bytes, room for {}{}", Counted(full.chunk_count, "chunk"),
                     full.chunk_size_bytes, full.max_chunk_count,
                     full.auto_grow ? ", grows by itself" : "");
}

std::string Text(const shm::ChannelSpec& channel) {
  return fmt::format("{}, {}, queue of {}", PoolResource(channel.pool), NameOf(channel.when_full),
                     ChannelManager::WithDefaults(channel).queue_capacity);
}

// Names that come twice, and too many of them.
template <class Spec>
void CheckNames(const std::vector<Spec>& specs, const std::string& list, size_t most,
                Violations& violations) {
  std::set<std::string_view> names;
  for (size_t i = 0; i < specs.size(); ++i) {
    if (!names.insert(specs[i].name).second)
      violations.push_back({fmt::format("{}[{}].name", list, i), "is there twice"});
  }
  if (specs.size() > most)
    violations.push_back(
        {list, fmt::format("has {} entries, at most {} are possible", specs.size(), most)});
}

void PlanPool(const shm::PoolSpec& running, const shm::PoolSpec& wanted, const std::string& path,
              ConfigPlan& plan, Violations& violations) {
  for (const PoolManager::Difference& d : PoolManager::Differences(wanted, running)) {
    if (d.can_change) continue;
    violations.push_back(
        {path + d.field, fmt::format("is immutable: {} has {}, not {}; give the new one another "
                                     "name, or delete the old one first",
                                     PoolResource(wanted.name), d.actual, d.wanted)});
  }
  const std::string resource = PoolResource(wanted.name);
  if (wanted.chunk_count > running.max_chunk_count) {
    violations.push_back(
        {path + "chunk_count", fmt::format("is {}, more than the max_chunk_count of {}, {}",
                                           wanted.chunk_count, resource, running.max_chunk_count)});
  }
  if (wanted.chunk_count != running.chunk_count) {
    const bool grows = wanted.chunk_count > running.chunk_count;
    if (grows) plan.growths.push_back({wanted.name, "", wanted.chunk_count});
    plan.changes.push_back({grows ? Action::kUpdate : Action::kKeep, resource + ".chunk_count",
                            std::to_string(running.chunk_count),
                            std::to_string(wanted.chunk_count)});
  }
  if (wanted.auto_grow != running.auto_grow) {
    plan.switches.push_back({wanted.name, "", {}, wanted.auto_grow});
    plan.changes.push_back({Action::kUpdate, resource + ".auto_grow",
                            running.auto_grow ? "true" : "false",
                            wanted.auto_grow ? "true" : "false"});
  }
}

void PlanPools(const Config& running, const Config& wanted, ConfigPlan& plan,
               Violations& violations) {
  CheckNames(wanted.pools, "pools", shm::kMaxPools, violations);
  for (size_t i = 0; i < wanted.pools.size(); ++i) {
    const shm::PoolSpec& pool = wanted.pools[i];
    if (const shm::PoolSpec* there = Find(running.pools, pool.name)) {
      PlanPool(*there, pool, fmt::format("pools[{}].", i), plan, violations);
    } else {
      plan.pools_to_create.push_back(pool);
      plan.changes.push_back({Action::kAdd, PoolResource(pool.name), "", Text(pool)});
    }
  }
  for (const shm::PoolSpec& pool : running.pools) {
    if (Find(wanted.pools, pool.name) != nullptr) continue;
    plan.pools_to_delete.push_back(pool.name);
    plan.changes.push_back({Action::kRemove, PoolResource(pool.name), Text(pool), ""});
  }
}

void PlanChannels(const Config& running, const Config& wanted, ConfigPlan& plan,
                  Violations& violations) {
  CheckNames(wanted.channels, "channels", shm::kMaxChannels, violations);
  for (size_t i = 0; i < wanted.channels.size(); ++i) {
    const shm::ChannelSpec& channel = wanted.channels[i];
    const std::string path = fmt::format("channels[{}].", i);
    if (Find(wanted.pools, channel.pool) == nullptr) {
      violations.push_back({path + "pool", fmt::format("is {}, which the configuration has not",
                                                       PoolResource(channel.pool))});
    }
    const shm::ChannelSpec* there = Find(running.channels, channel.name);
    if (there == nullptr) {
      plan.channels_to_create.push_back(channel);
      plan.changes.push_back({Action::kAdd, ChannelResource(channel.name), "", Text(channel)});
      continue;
    }
    for (const ChannelManager::Difference& d : ChannelManager::Differences(channel, *there)) {
      violations.push_back(
          {path + d.field,
           fmt::format("is immutable: {} has {}, not {}; give the new one another name, or delete "
                       "the old one first",
                       ChannelResource(channel.name), d.actual, d.wanted)});
    }
  }
  for (const shm::ChannelSpec& channel : running.channels) {
    if (Find(wanted.channels, channel.name) != nullptr) continue;
    plan.channels_to_delete.push_back(channel.name);
    plan.changes.push_back({Action::kRemove, ChannelResource(channel.name), Text(channel), ""});
  }
}

}  // namespace

std::string Describe(const ConfigChange& change) {
  switch (change.action) {
    case Action::kAdd:
      return fmt::format("+ {} ({})", change.path, change.new_value);
    case Action::kUpdate:
      return fmt::format("~ {} {} -> {}", change.path, change.old_value, change.new_value);
    case Action::kRemove:
      return fmt::format("- {} ({})", change.path, change.old_value);
    case Action::kKeep:
      break;
  }
  return fmt::format("= {} {} ({} asked for)", change.path, change.old_value, change.new_value);
}

std::string Describe(const std::vector<ConfigChange>& changes) {
  std::string text;
  for (const ConfigChange& change : changes) {
    if (text.size() > kMaxDescription) return text + "; ...";
    text += (text.empty() ? "" : "; ") + Describe(change);
  }
  return text;
}

bool ChangesNothing(const std::vector<ConfigChange>& changes) {
  return std::all_of(changes.begin(), changes.end(),
                     [](const ConfigChange& change) { return change.action == Action::kKeep; });
}

ConfigPlan MakePlan(const Config& running, const Config& wanted, Violations& violations) {
  ConfigPlan plan;
  PlanPools(running, wanted, plan, violations);
  PlanChannels(running, wanted, plan, violations);
  std::sort(plan.changes.begin(), plan.changes.end(),
            [](const ConfigChange& a, const ConfigChange& b) { return a.path < b.path; });
  return plan;
}

std::vector<ConfigChange> ChangesBetween(const Config& before, const Config& after) {
  Violations ignored;  // a channel's pool need not be there
  return MakePlan(before, after, ignored).changes;
}

absl::Status RefuseDeletions(const ConfigPlan& plan) {
  std::string names;
  std::string first;
  size_t count = 0;
  for (const ConfigChange& change : plan.changes) {
    if (change.action != Action::kRemove) continue;
    if (first.empty()) first = change.path;
    if (++count <= kMaxNamed) names += (names.empty() ? "" : ", ") + change.path;
  }
  if (count == 0) return absl::OkStatus();
  if (count > kMaxNamed) names += fmt::format(" and {} more", count - kMaxNamed);
  return MakeError(Reason::kDeletionNotAllowed,
                   fmt::format("{} {} there and not in the configuration: add what is to stay, and "
                               "set allow_deletion to delete the rest",
                               names, count == 1 ? "is" : "are"),
                   {{"resource", first}, {"resourceCount", std::to_string(count)}});
}

Config After(const Config& running, const ConfigPlan& plan) {
  Config after;
  const auto goes = [](const std::vector<std::string>& names, const std::string& name) {
    return std::find(names.begin(), names.end(), name) != names.end();
  };
  for (shm::PoolSpec pool : running.pools) {
    if (goes(plan.pools_to_delete, pool.name)) continue;
    if (const auto* growth = Find(plan.growths, pool.name)) pool.chunk_count = *growth->chunk_count;
    if (const auto* change = Find(plan.switches, pool.name)) pool.auto_grow = *change->auto_grow;
    after.pools.push_back(std::move(pool));
  }
  for (const shm::ChannelSpec& channel : running.channels) {
    if (!goes(plan.channels_to_delete, channel.name)) after.channels.push_back(channel);
  }
  for (const shm::PoolSpec& pool : plan.pools_to_create)
    after.pools.push_back(shm::WithDefaults(pool));
  for (const shm::ChannelSpec& channel : plan.channels_to_create)
    after.channels.push_back(ChannelManager::WithDefaults(channel));
  const auto by_name = [](const auto& a, const auto& b) { return a.name < b.name; };
  std::sort(after.pools.begin(), after.pools.end(), by_name);
  std::sort(after.channels.begin(), after.channels.end(), by_name);
  return after;
}

std::string EtagOf(const std::vector<PoolInfo>& pools, const std::vector<ChannelInfo>& channels) {
  std::string text;
  for (const PoolInfo& pool : pools)
    text += pool.spec.auto_grow ? pool.spec.name + pool.uid : pool.spec.name + pool.etag;
  for (const ChannelInfo& channel : channels) text += channel.spec.name + channel.etag;
  unsigned char digest[SHA256_DIGEST_LENGTH];
  SHA256(reinterpret_cast<const unsigned char*>(text.data()), text.size(), digest);
  std::string etag = "\"";
  for (size_t i = 0; i < 8; ++i) etag += fmt::format("{:02x}", digest[i]);
  return etag + "\"";
}

Config Overlay(Config config, const Config& over) {
  const auto lay = [](auto& specs, const auto& others) {
    for (const auto& other : others) {
      const auto same = std::find_if(specs.begin(), specs.end(),
                                     [&](const auto& spec) { return spec.name == other.name; });
      if (same == specs.end()) {
        specs.push_back(other);
      } else {
        *same = other;
      }
    }
  };
  lay(config.pools, over.pools);
  lay(config.channels, over.channels);
  return config;
}

}  // namespace zerocp
