// A whole instance inside one process: the test plays the daemon, and each Session plays a client.
//
// Sessions share one mapping, so ThreadSanitizer sees every access. The audit runs in TearDown:
// whatever a test did, no invariant may be broken, and when every session has gone, every chunk is
// free.
#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>

#include "shm/audit.h"
#include "shm/chunk_ops.h"
#include "shm/publisher_port.h"
#include "shm/recovery.h"
#include "shm/session.h"
#include "shm/subscriber_port.h"

namespace zerocp::shm {

class InstanceFixture : public ::testing::Test {
 protected:
  InstanceFixture() {
    char dir[] = "/dev/shm/zerocp_test_XXXXXX";
    EXPECT_NE(mkdtemp(dir), nullptr) << strerror(errno);
    dir_ = dir;
    MemPoolManager::CreateOptions options;
    options.segment_dir = dir_;
    options.instance = "test";
    options.management_reserved_bytes = uint64_t{64} << 20;
    options.chunk_reserved_bytes = uint64_t{256} << 20;
    options.session_capacity = 256;
    options.lock = {1, 2, "lock"};
    auto created = MemPoolManager::Create(options);
    EXPECT_TRUE(created.ok()) << created.status().message();
    manager_ = std::move(*created);
    registry_ = std::make_unique<ChannelRegistry>(*manager_);
    recovery_ = std::make_unique<Recovery>(*manager_, *registry_);
  }

  void TearDown() override {
    ExpectAuditHolds();
    recovery_->Recover(attached_, true);
    attached_.reset();
    const AuditReport report = Audit(*manager_, *registry_, attached_);
    EXPECT_EQ(report.violation_count, 0u) << First(report);
    for (const PoolCounts& pool : report.pools)
      EXPECT_EQ(pool.free_count, pool.chunk_count) << pool.pool;
  }

  ~InstanceFixture() override {
    EXPECT_TRUE(manager_->Destroy().ok());
    EXPECT_TRUE(std::filesystem::is_empty(dir_)) << dir_;
    std::filesystem::remove_all(dir_);
  }

  static std::string First(const AuditReport& report) {
    return report.violations.empty()
               ? ""
               : report.violations[0].invariant + ": " + report.violations[0].detail;
  }
  void ExpectAuditHolds() {
    const AuditReport report = Audit(*manager_, *registry_, attached_);
    EXPECT_EQ(report.violation_count, 0u) << First(report);
  }

  // A cap for thread caches, that of one thread alone if `cap` is not given.
  const PoolView& AddPool(const std::string& name, uint64_t size, uint32_t count,
                          uint32_t max_holders = 0) {
    PoolSpec spec;
    spec.name = name;
    spec.chunk_size_bytes = size;
    spec.chunk_count = count;
    spec.max_holders = max_holders;
    auto index = manager_->CreatePool(spec);
    EXPECT_TRUE(index.ok()) << index.status().message();
    return *manager_->pool(*index);
  }
  void AddChannel(const std::string& name, const std::string& pool, uint32_t queue = 0,
                  WhenFull when_full = WhenFull::kWait) {
    ChannelSpec spec;
    spec.name = name;
    spec.pool = pool;
    spec.queue_capacity = queue;
    spec.when_full = when_full;
    auto index = registry_->Create(spec);
    ASSERT_TRUE(index.ok()) << index.status().message();
  }

  std::shared_ptr<Session> Attach() {
    const uint16_t id = next_id_++;
    attached_.set(id);
    return std::make_shared<Session>(manager_, id);
  }
  std::unique_ptr<PublisherPort> Publish(const std::shared_ptr<Session>& session,
                                         const std::string& channel) {
    auto info = registry_->JoinAsPublisher(channel, "", session->id());
    EXPECT_TRUE(info.ok()) << info.status().message();
    auto port = PublisherPort::Create(session, *info);
    EXPECT_TRUE(port.ok());
    return std::move(*port);
  }
  std::unique_ptr<SubscriberPort> Subscribe(const std::shared_ptr<Session>& session,
                                            const std::string& channel,
                                            const SubscriberSpec& spec = {}) {
    auto info = registry_->JoinAsSubscriber(channel, "", session->id(), spec);
    EXPECT_TRUE(info.ok()) << info.status().message();
    auto port = SubscriberPort::Create(session, *info);
    EXPECT_TRUE(port.ok());
    return std::move(*port);
  }
  void Leave(std::unique_ptr<PublisherPort> port, const Session& session) {
    EXPECT_TRUE(
        registry_->LeavePublisher(port->info().channel, port->info().index, session.id()).ok());
  }
  void Leave(std::unique_ptr<SubscriberPort> port, const Session& session) {
    EXPECT_TRUE(
        registry_->LeaveSubscriber(port->info().channel, port->info().index, session.id()).ok());
    recovery_->DrainSubscriber(port->info().channel, port->info().index);
  }
  // The process of `session` is killed: nothing it holds is given back by itself.
  RecoveryReport Kill(const std::shared_ptr<Session>& session) {
    SessionSet gone;
    gone.set(session->id());
    attached_.reset(session->id());
    killed_.push_back(session);  // its destructor would flush its caches, as no killed process does
    return recovery_->Recover(gone, false);
  }
  RecoveryReport Detach(const std::shared_ptr<Session>& session) {
    session->Close();
    SessionSet gone;
    gone.set(session->id());
    attached_.reset(session->id());
    return recovery_->Recover(gone, true);
  }

  // Loans a chunk, writes `value` into it, and publishes it.
  static Code Send(Session& session, PublisherPort& port, uint64_t value,
                   Deadline deadline = Deadline::Now(), int* delivered = nullptr) {
    ChunkRef chunk;
    if (Code code = session.Loan(port.pool(), deadline, &chunk); code != Code::kOk) return code;
    std::memcpy(chunk.data(), &value, sizeof(value));
    chunk.header().size_bytes.store(sizeof(value), std::memory_order_relaxed);
    Published published{};
    const Code code = port.Publish(chunk, deadline, &published);
    if (code != Code::kOk) {
      EXPECT_TRUE(session.Release(chunk));
    }
    if (delivered != nullptr) *delivered = published.delivered;
    return code;
  }
  static uint64_t Value(const ChunkRef& chunk) {
    uint64_t value;
    std::memcpy(&value, chunk.data(), sizeof(value));
    return value;
  }
  // Takes a message, checks that it is `value`, and releases it.
  static void ExpectTakes(Session& session, SubscriberPort& port, uint64_t value) {
    ChunkRef chunk;
    ASSERT_EQ(port.TryTake(&chunk), Code::kOk) << "for message " << value;
    EXPECT_EQ(Value(chunk), value);
    EXPECT_TRUE(session.Release(chunk));
  }
  static PoolCounts Counts(const PoolView& pool) { return Count(pool); }

  std::string dir_;
  std::shared_ptr<MemPoolManager> manager_;
  std::unique_ptr<ChannelRegistry> registry_;
  std::unique_ptr<Recovery> recovery_;
  SessionSet attached_;
  uint16_t next_id_ = kFirstSession;
  std::vector<std::shared_ptr<Session>> killed_;
};

}  // namespace zerocp::shm
