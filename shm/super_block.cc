#include "shm/super_block.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "shm/mem_pool_allocator.h"

namespace zerocp::shm {

Status ReadSuperBlock(const Segment& segment, SuperBlock* block) {
  if (pread(segment.fd(), static_cast<void*>(block), sizeof(*block), 0) !=
      static_cast<ssize_t>(sizeof(*block))) {
    return Status(Code::kDamaged, segment.path() + ": no complete super block");
  }
  return Status();
}

Status CheckSuperBlock(const SuperBlock& block, uint64_t file_bytes) {
  if (block.magic.load(std::memory_order_acquire) != kMagic) {  // PAIR superblock.magic
    return Status(Code::kDamaged, "no complete super block");
  }
  if (block.layout_version != kLayoutVersion || block.limits_hash != LimitsHash() ||
      block.feature_bits != 0) {
    return Status(Code::kVersionMismatch,
                  "the segments have layout version " + std::to_string(block.layout_version) +
                      " (limits " + std::to_string(block.limits_hash) + ", features " +
                      std::to_string(block.feature_bits) + "), this program has layout version " +
                      std::to_string(kLayoutVersion) + " (limits " + std::to_string(LimitsHash()) +
                      ", features 0)");
  }
  // Two ranges of this size fit into an address space of 47 bits.
  constexpr uint64_t kMost = uint64_t{1} << 46;
  const uint64_t extents = MemPoolAllocator::ExtentsOffset(block.session_capacity);
  if (block.session_capacity < kFirstSession ||
      block.session_capacity > kMaxSessionCapacity + kFirstSession ||
      block.channel_capacity != kMaxChannels || block.pool_table_offset != kPoolTableOffset ||
      block.session_table_offset != kSessionTableOffset || block.extents_offset != extents ||
      block.channel_table_offset !=
          kSessionTableOffset + uint64_t{block.session_capacity} * sizeof(SessionEntry) ||
      block.management_reserved_bytes < extents || block.management_reserved_bytes > kMost ||
      block.chunk_reserved_bytes > kMost || block.management_reserved_bytes % kExtentAlign != 0 ||
      block.chunk_reserved_bytes % kExtentAlign != 0 || file_bytes < extents) {
    return Status(Code::kDamaged, "the super block is damaged");
  }
  return Status();
}

bool IsUnfinished(const Segment& segment) {
  uint64_t magic = 0;
  return pread(segment.fd(), &magic, sizeof(magic), 0) == 0 || magic == kUnfinishedMagic;
}

Status NotFinished(const Segment& segment) {
  return Status(Code::kUnavailable, segment.path() + " is not finished");
}

LockIdentity LockOf(const SuperBlock& block) {
  LockIdentity lock{block.lock_device, block.lock_inode, {}};
  lock.path.assign(block.lock_path, strnlen(block.lock_path, sizeof(block.lock_path)));
  return lock;
}

void StoreLock(const LockIdentity& lock, SuperBlock& block) {
  block.lock_device = lock.device;
  block.lock_inode = lock.inode;
  CopyName(block.lock_path, lock.path);
}

}  // namespace zerocp::shm
