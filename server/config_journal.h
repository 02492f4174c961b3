// From which configuration to which one the daemon is on its way, for the one that comes after it.
//
// Invariant. J1: before the first step of a change the journal is there and durable; after the last
// step, or when all of them are undone, it goes. Whoever starts and finds one completes or undoes
// what was begun (ConfigManager::Recover).
//
// Threads. One at a time. Crash. A journal is whole or not there (FileReplacement).
#pragma once

#include <optional>
#include <string>

#include "server/config_plan.h"
#include "shm/status.h"

namespace zerocp {

class ConfigJournal {
 public:
  struct Entry {
    Config old_config;  // as it was in force
    Config new_config;  // as it was asked for
    bool persist = false;
  };

  // `path`: of the journal. `instance`: what it is about, another instance is none of its business.
  ConfigJournal(std::string path, std::string instance);

  // kDenied, kNoMemory.
  shm::Status Write(const Entry& entry);
  // nullopt if there is none, or only one of another instance. kDamaged, kDenied.
  shm::Result<std::optional<Entry>> Read() const;
  // Nothing if there is none. kDenied.
  shm::Status Remove();

 private:
  const std::string path_;
  const std::string instance_;
};

}  // namespace zerocp
