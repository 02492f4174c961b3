// The segments of an instance: created, adopted from a daemon that is gone, or removed.
//
// Invariants. N1: segments that a living daemon owns are never touched: their super block names the
// lock file of that daemon, which the kernel shows as held, and their owner also holds a lock on
// the management segment itself, which any daemon that can see the segment sees, from whatever
// container. N2: nothing that is not a private regular file of this user is touched.
//
// Threads. One at a time, at start. Crash. A creation that was cut short is begun anew by the next
// start.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "shm/mem_pool_manager.h"
#include "shm/status.h"
#include "shm/unique_fd.h"

namespace zerocp {

struct Instance {
  std::unique_ptr<shm::MemPoolManager> manager;
  shm::UniqueFd owner_lock;  // N1; a descriptor of its own, never one that is passed to clients
  bool adopted = false;
};

// Adopts the segments of `options.instance` if they are there, else creates them. kAlreadyExists: a
// living daemon owns them, and the message names its process. kDenied: something else is at their
// names. kVersionMismatch, kDamaged: they cannot be used; the message says how to remove them.
// kNoMemory. REQUIRES: `options.lock` is held by this process.
shm::Result<Instance> OpenInstance(const shm::MemPoolManager::CreateOptions& options);

// Removes both segments, or what is left of them; what is not zerocp's is left alone. Returns the
// names of the files that were removed, or with `preview` would be. kAlreadyExists: a living daemon
// owns them, or processes use them still; kDenied: as OpenInstance. `options.lock` is one that this
// process holds, if it holds one that the segments may name.
shm::Result<std::vector<std::string>> CleanUpInstance(
    const shm::MemPoolManager::CreateOptions& options, bool preview = false);

// Names of the instances that have a management segment in `segment_dir`, in order; "" is the
// default one. Whether they are in use is CleanUpInstance's to say.
std::vector<std::string> InstancesIn(const std::string& segment_dir);

}  // namespace zerocp
