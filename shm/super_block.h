// Reading and checking the super block of segments that another process made.
//
// What a peer can have forged is checked here, once; what passed is copied and used from the copy.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

#include "shm/layout.h"
#include "shm/segment.h"
#include "shm/status.h"

namespace zerocp::shm {

// Who owns the segments: the lock file that their daemon holds.
struct LockIdentity {
  uint64_t device = 0;
  uint64_t inode = 0;
  std::string path;
};

// Reads it without mapping, so that a short file cannot fault. kDamaged: there is none.
Status ReadSuperBlock(const Segment& segment, SuperBlock* block);
// kVersionMismatch names both versions; kDamaged. After it every number in `block` is possible, for
// a file of `file_bytes`.
Status CheckSuperBlock(const SuperBlock& block, uint64_t file_bytes);
// True while the segments are being created, or if their creation was cut short.
bool IsUnfinished(const Segment& segment);
Status NotFinished(const Segment& segment);
LockIdentity LockOf(const SuperBlock& block);
void StoreLock(const LockIdentity& lock, SuperBlock& block);

// Stores as much of `from` as fits, and NULs behind it: at least one.
template <size_t n>
void CopyName(char (&to)[n], std::string_view from) {
  std::memset(to, 0, n);
  from.copy(to, n - 1);
}

}  // namespace zerocp::shm
