// MemPoolManager::Inspect: what it counts, and that no bytes and no cut of the files hurt it.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "shm/audit.h"
#include "shm/census.h"
#include "tests/unit/shm/instance_fixture.h"

namespace zerocp::shm {
namespace {

namespace fs = std::filesystem;

class InspectTest : public InstanceFixture {
 protected:
  InspectTest() {
    AddPool("p", 64, 64);
    AddPool("q", 4096, 16);
    AddChannel("c", "p", 8);
    AddChannel("d", "p", 8, WhenFull::kDropOldest);
    copy_dir_ = dir_ + "/copy";
    fs::create_directory(copy_dir_);
  }
  ~InspectTest() override { fs::remove_all(copy_dir_); }

  std::string Management(const std::string& dir) const {
    return dir + "/" + MemPoolManager::ManagementName("test");
  }
  std::string Chunk(const std::string& dir) const {
    return dir + "/" + MemPoolManager::ChunkName("test");
  }
  // Copies of both files, to be spoiled.
  void Copy() const {
    constexpr auto kReplace = fs::copy_options::overwrite_existing;
    fs::copy_file(Management(dir_), Management(copy_dir_), kReplace);
    fs::copy_file(Chunk(dir_), Chunk(copy_dir_), kReplace);
  }
  static Result<std::unique_ptr<MemPoolManager>> Inspect(const std::string& dir) {
    MemPoolManager::CreateOptions options;
    options.segment_dir = dir;
    options.instance = "test";
    return MemPoolManager::Inspect(options);
  }
  void Spoil(uint64_t offset, const std::string& bytes) const {
    std::fstream file(Management(copy_dir_), std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(static_cast<std::streamoff>(offset));
    file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  }
  static std::string Bytes(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  // All that a tool reads.
  static uint64_t ReadAll(MemPoolManager& manager) {
    ChannelRegistry registry(manager);
    (void)registry.Inspect();
    uint64_t sum = 0;
    Census census;
    for (uint32_t index : registry.List()) {
      const auto& channel = *registry.channel(index);
      sum += registry.PublishedCount(channel) + registry.WaitedCount(channel);
      for (uint32_t k = 0; k < channel.subscribers.size(); ++k)
        sum += registry.QueuedCount(channel, k);
      census.Add(index, channel, manager, 1000);
    }
    census.Finish();
    for (uint64_t held : HeldCounts(manager)) sum += held;
    std::vector<Holding> holders;
    HolderSums sums;
    for (uint32_t index = 0; index < kMaxPools; ++index) {
      const PoolView* pool = manager.pool(index);
      if (pool == nullptr) continue;
      sum += Count(*pool).free_count;
      for (uint32_t chunk = 0; chunk < pool->live_chunk_count(); ++chunk) {
        census.HoldersOf(*pool, chunk, &holders);
        for (const Holding& holding : holders) sums.Add(*pool, holding);
      }
    }
    return sum + DescribeHolders(sums, census, manager).size();
  }

  std::string copy_dir_;
};

TEST_F(InspectTest, CountsWhatIsThereAndChangesNothing) {
  auto writer = Attach();
  auto reader = Attach();
  auto publisher = Publish(writer, "c");
  auto subscriber = Subscribe(reader, "c");
  for (uint64_t i = 0; i < 5; ++i) ASSERT_EQ(Send(*writer, *publisher, i), Code::kOk);
  ChunkRef taken;
  ASSERT_EQ(subscriber->TryTake(&taken), Code::kOk);
  const std::string management = Bytes(Management(dir_)), chunks = Bytes(Chunk(dir_));

  auto inspected = Inspect(dir_);
  ASSERT_TRUE(inspected.ok()) << inspected.status().message();
  MemPoolManager& manager = **inspected;
  ChannelRegistry registry(manager);
  ASSERT_TRUE(registry.Inspect().ok());
  const ChannelRegistry::Channel& channel = *registry.Find("c");
  EXPECT_EQ(registry.PublishedCount(channel), 5u);
  EXPECT_EQ(registry.QueuedCount(channel, 0), 4u);
  EXPECT_EQ(ChannelRegistry::PublisherCount(channel), 1u);
  const PoolCounts ours = Count(*manager_->FindPool("p"));
  const PoolCounts theirs = Count(*manager.FindPool("p"));
  EXPECT_EQ(theirs.chunk_count, ours.chunk_count);
  EXPECT_EQ(theirs.free_count, ours.free_count);
  EXPECT_EQ(theirs.shared_count, 5u);
  EXPECT_EQ(HeldCounts(manager)[reader->id()], 1u);
  EXPECT_EQ(manager.lock().inode, 2u);
  ReadAll(manager);

  EXPECT_EQ(Bytes(Management(dir_)), management);
  EXPECT_EQ(Bytes(Chunk(dir_)), chunks);
  EXPECT_TRUE(reader->Release(taken));
}

TEST_F(InspectTest, WhatHappensToTheFilesLaterIsNotSeen) {
  auto writer = Attach();
  ChunkRef loan;
  ASSERT_EQ(writer->Loan(*manager_->FindPool("q"), Deadline::Now(), &loan), Code::kOk);
  Copy();
  auto inspected = Inspect(copy_dir_);
  ASSERT_TRUE(inspected.ok()) << inspected.status().message();
  fs::resize_file(Management(copy_dir_), 0);
  fs::resize_file(Chunk(copy_dir_), 0);
  EXPECT_EQ(Count(*(*inspected)->FindPool("q")).writing_count, 1u);
  ReadAll(**inspected);
  EXPECT_TRUE(writer->Release(loan));
}

TEST_F(InspectTest, CutFilesAreDamaged) {
  Copy();
  const uint64_t bytes = fs::file_size(Management(copy_dir_));
  for (uint64_t cut = bytes; cut > 0; cut -= std::min<uint64_t>(cut, 4096)) {
    fs::resize_file(Management(copy_dir_), cut - std::min<uint64_t>(cut, 4096));
    auto inspected = Inspect(copy_dir_);
    if (inspected.ok()) ReadAll(**inspected);  // what was cut off held nothing
  }
  EXPECT_EQ(Inspect(copy_dir_).code(), Code::kUnavailable);  // empty: as one that is being made
  Copy();
  fs::resize_file(Management(copy_dir_), kSessionTableOffset);
  EXPECT_EQ(Inspect(copy_dir_).code(), Code::kDamaged);
  Copy();
  fs::resize_file(Chunk(copy_dir_), 4096);
  EXPECT_EQ(Inspect(copy_dir_).code(), Code::kDamaged);
  fs::remove(Chunk(copy_dir_));
  EXPECT_EQ(Inspect(copy_dir_).code(), Code::kDamaged);
}

TEST_F(InspectTest, NoBytesHurtIt) {
  auto writer = Attach();
  auto reader = Attach();
  auto publisher = Publish(writer, "c");
  auto subscriber = Subscribe(reader, "c");
  for (uint64_t i = 0; i < 5; ++i) ASSERT_EQ(Send(*writer, *publisher, i), Code::kOk);
  const uint64_t bytes = fs::file_size(Management(dir_));
  const uint64_t channels =
      kSessionTableOffset + uint64_t{manager_->session_capacity()} * sizeof(SessionEntry);
  std::mt19937_64 random(1);
  int read = 0;
  for (int round = 0; round < 400; ++round) {
    Copy();
    for (int hit = 0; hit < 30; ++hit) {
      // Round about: everything behind the tables, one of two channel entries, pool or sessions.
      const uint64_t places[] = {channels + random() % (2 * sizeof(ChannelEntry)),
                                 kExtentAlign + random() % (bytes - kExtentAlign),
                                 kSessionTableOffset + random() % 1024,
                                 kPoolTableOffset + 72 + random() % 56};
      std::string garbage(8, '\0');
      for (char& c : garbage) c = static_cast<char>(random());
      Spoil(round % 5 == 4 ? random() % bytes : places[round % 4], garbage);
    }
    auto inspected = Inspect(copy_dir_);
    if (!inspected.ok()) continue;
    ++read;
    ReadAll(**inspected);
  }
  EXPECT_GT(read, 100);  // else nothing but the first checks was tried

  std::string garbage(bytes, '\0');
  std::generate(garbage.begin(), garbage.end(), [&] { return static_cast<char>(random()); });
  Spoil(0, garbage);
  EXPECT_EQ(Inspect(copy_dir_).code(), Code::kDamaged);
  Copy();
  Spoil(kExtentAlign, garbage.substr(kExtentAlign));
  auto inspected = Inspect(copy_dir_);
  ASSERT_TRUE(inspected.ok()) << inspected.status().message();
  ReadAll(**inspected);
}

TEST_F(InspectTest, SaysWhyItCannotRead) {
  EXPECT_EQ(Inspect("/nonexistent").code(), Code::kNotFound);
  Copy();
  Spoil(8, std::string("\x63\0\0\0", 4));
  const auto other = Inspect(copy_dir_);
  EXPECT_EQ(other.code(), Code::kVersionMismatch);
  EXPECT_NE(other.status().message().find("version 99"), std::string::npos);
  Spoil(0, std::string(reinterpret_cast<const char*>(&kUnfinishedMagic), 8));
  EXPECT_EQ(Inspect(copy_dir_).code(), Code::kUnavailable);
  Spoil(0, "nonsense");
  EXPECT_EQ(Inspect(copy_dir_).code(), Code::kDamaged);
  Copy();
  ASSERT_EQ(chmod(Chunk(copy_dir_).c_str(), 0644), 0);
  EXPECT_EQ(Inspect(copy_dir_).code(), Code::kDenied);
  fs::remove(Chunk(copy_dir_));
  ASSERT_EQ(mkfifo(Chunk(copy_dir_).c_str(), 0600), 0);
  EXPECT_EQ(Inspect(copy_dir_).code(), Code::kDenied);
}

TEST_F(InspectTest, TheHolderOfALockIsNamedWithoutTakingIt) {
  struct stat info {};
  ASSERT_EQ(stat(Management(dir_).c_str(), &info), 0);
  auto holder = FileLockHolder(info.st_dev, info.st_ino);
  ASSERT_TRUE(holder.ok()) << holder.status().message();
  EXPECT_EQ(*holder, 0);
  {
    auto lock = Segment::Lock(Management(dir_));
    ASSERT_TRUE(lock.ok());
    EXPECT_EQ(*FileLockHolder(info.st_dev, info.st_ino), getpid());
  }
  EXPECT_EQ(*FileLockHolder(info.st_dev, info.st_ino), 0);
}

}  // namespace
}  // namespace zerocp::shm
