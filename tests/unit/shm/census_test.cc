#include "shm/census.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "tests/unit/shm/instance_fixture.h"

namespace zerocp::shm {
namespace {

class CensusTest : public InstanceFixture {
 protected:
  CensusTest() {
    AddPool("p", 64, 64);
    AddChannel("c", "p", 8);
    AddChannel("d", "p", 8);
  }
  const PoolView& pool() { return *manager_->FindPool("p"); }
  Census Look() {
    Census census;
    for (uint32_t index : registry_->List())
      census.Add(index, *registry_->channel(index), *manager_, pool().live_chunk_count());
    census.Finish();
    return census;
  }
  // "2 writing 3" for a chunk that session 2 writes and so on, sorted: one text per held chunk.
  std::vector<std::string> Held(const Census& census) {
    std::vector<std::string> texts;
    std::vector<Holding> holders;
    for (uint32_t chunk = 0; chunk < pool().live_chunk_count(); ++chunk) {
      census.HoldersOf(pool(), chunk, &holders);
      for (const Holding& h : holders) {
        if (h.phase == HoldPhase::kCached) continue;
        constexpr const char* kNames[] = {"", "writes", "queued", "reads", "", "cached"};
        texts.push_back(std::to_string(h.session) + " " + kNames[static_cast<int>(h.phase)] + " " +
                        census.ChannelName(h.channel));
      }
    }
    std::sort(texts.begin(), texts.end());
    return texts;
  }
  using Texts = std::vector<std::string>;
};

TEST_F(CensusTest, EachChunkIsHeldByWhoeverKeepsItInItsPhase) {
  auto writer = Attach();  // 2
  auto first = Attach();   // 3
  auto second = Attach();  // 4
  auto port = Publish(writer, "c");
  auto one = Subscribe(first, "c");
  ChunkRef loan;
  ASSERT_EQ(writer->Loan(pool(), Deadline::Now(), &loan), Code::kOk);
  EXPECT_EQ(Held(Look()), (Texts{"2 writes "}));
  ASSERT_EQ(Send(*writer, *port, 1), Code::kOk);  // moved: one subscriber
  const Texts moved{"2 writes ", "3 queued c"};
  EXPECT_EQ(Held(Look()), moved);
  EXPECT_EQ(Held(Census::WithoutQueues(*manager_)), moved);
  ChunkRef taken;
  ASSERT_EQ(one->TryTake(&taken), Code::kOk);
  EXPECT_EQ(Held(Look()), (Texts{"2 writes ", "3 reads c"}));

  auto two = Subscribe(second, "c");
  ASSERT_EQ(Send(*writer, *port, 2), Code::kOk);  // shared: two of them
  ChunkRef shared;
  ASSERT_EQ(two->TryTake(&shared), Code::kOk);
  const Texts both{"2 writes ", "3 queued c", "3 reads c", "4 reads c"};
  EXPECT_EQ(Held(Look()), both);
  EXPECT_EQ(Held(Census::WithoutQueues(*manager_)), both);
  const std::string text = DescribeExhausted(Look(), *manager_, pool());
  EXPECT_NE(text.find("1 queued in 'c'"), std::string::npos) << text;
  EXPECT_NE(text.find("more"), std::string::npos) << text;

  EXPECT_TRUE(first->Release(taken));
  EXPECT_TRUE(second->Release(shared));
  EXPECT_TRUE(writer->Release(loan));
  ExpectTakes(*first, *one, 2);
  EXPECT_EQ(Held(Look()), Texts{});
}

TEST_F(CensusTest, ASessionThatSubscribesToItselfIsSeenExactlyWithTheQueues) {
  auto both = Attach();   // 2
  auto other = Attach();  // 3
  auto port = Publish(both, "c");
  auto own = Subscribe(both, "c");
  auto peer = Subscribe(other, "c");
  ASSERT_EQ(Send(*both, *port, 1), Code::kOk);
  EXPECT_EQ(Held(Look()), (Texts{"2 queued c", "3 queued c"}));
  ChunkRef mine;
  ASSERT_EQ(own->TryTake(&mine), Code::kOk);
  EXPECT_EQ(Held(Look()), (Texts{"2 reads c", "3 queued c"}));
  EXPECT_TRUE(both->Release(mine));
  ExpectTakes(*other, *peer, 1);
}

TEST_F(CensusTest, WhatADeadPublisherSentStillWaits) {
  auto writer = Attach();
  auto first = Attach();   // 3
  auto second = Attach();  // 4
  auto port = Publish(writer, "c");
  auto one = Subscribe(first, "c");
  auto two = Subscribe(second, "c");
  ASSERT_EQ(Send(*writer, *port, 1), Code::kOk);
  Kill(writer);
  EXPECT_EQ(Held(Look()), (Texts{"3 queued c", "4 queued c"}));
  ExpectTakes(*first, *one, 1);
  ExpectTakes(*second, *two, 1);
}

TEST_F(CensusTest, AnOpenedHandleIsReadAndOfNoChannel) {
  auto sharer = Attach();  // 2
  auto opener = Attach();  // 3
  ChunkRef chunk;
  ASSERT_EQ(sharer->Loan(pool(), Deadline::Now(), &chunk), Code::kOk);
  const uint64_t handle = sharer->Share(chunk);
  ChunkRef opened;
  ASSERT_EQ(opener->Open(handle, &opened), Code::kOk);
  EXPECT_EQ(Held(Look()), (Texts{"2 reads ", "3 reads "}));
  EXPECT_TRUE(sharer->Release(chunk));
  EXPECT_TRUE(opener->Release(opened));
}

TEST_F(CensusTest, EachUseOfAChunkIsAnother) {
  auto session = Attach();
  std::vector<uint64_t> uses;
  uint32_t index = 0;
  for (int i = 0; i < 100; ++i) {  // the same chunk, out of the cache and back
    ChunkRef chunk;
    ASSERT_EQ(session->Loan(pool(), Deadline::Now(), &chunk), Code::kOk);
    index = chunk.chunk;
    uses.push_back(UseOf(pool(), index));
    EXPECT_EQ(UseOf(pool(), index), uses.back());
    EXPECT_TRUE(session->Release(chunk));
    EXPECT_NE(UseOf(pool(), index), uses.back());
  }
  std::sort(uses.begin(), uses.end());
  EXPECT_EQ(std::unique(uses.begin(), uses.end()), uses.end());
  session->FlushThisThread();
  EXPECT_EQ(UseOf(pool(), index), 0u);
}

TEST_F(CensusTest, AnOpenerDoesNotRejuvenateAChunk) {
  auto session = Attach();
  ChunkRef chunk, opened;
  ASSERT_EQ(session->Loan(pool(), Deadline::Now(), &chunk), Code::kOk);
  const uint64_t handle = session->Share(chunk);
  const uint64_t use = UseOf(pool(), chunk.chunk);
  ASSERT_EQ(session->Open(handle, &opened), Code::kOk);
  EXPECT_EQ(UseOf(pool(), chunk.chunk), use);
  EXPECT_TRUE(session->Release(chunk));
  EXPECT_TRUE(session->Release(opened));
}

TEST_F(CensusTest, ForgedBytesLeadNowhere) {
  auto writer = Attach();
  auto reader = Attach();
  auto port = Publish(writer, "c");
  auto one = Subscribe(reader, "c");
  ASSERT_EQ(Send(*writer, *port, 1), Code::kOk);
  ChunkManager& record = pool().record(7);
  const uint64_t word = record.word.load();
  for (uint64_t kind = 0; kind < 4; ++kind) {
    record.word.store(0xffff'ffff'ffff'fffc | kind);
    record.label.store(~uint32_t{0} << 8 | static_cast<uint32_t>(kind + 3));
    for (uint32_t slot = 0; slot < pool().slot_count; ++slot) record.slots()[slot].store(0xffff);
    EXPECT_FALSE(DescribeExhausted(Look(), *manager_, pool()).empty());
    EXPECT_FALSE(DescribeExhausted(Census::WithoutQueues(*manager_), *manager_, pool()).empty());
  }
  for (uint32_t slot = 0; slot < pool().slot_count; ++slot) record.slots()[slot].store(0);
  record.label.store(0);
  record.word.store(word);
  ChannelEntry& entry = manager_->channel_entry(200);
  entry.region_offset = ~uint64_t{63};
  entry.max_subscriber_count = 0xffff;
  std::memcpy(entry.name, "forged", 7);
  entry.state.store(1);
  EXPECT_EQ(Census::WithoutQueues(*manager_).ChannelName(201), "");
  entry.max_subscriber_count = 1;
  EXPECT_EQ(Census::WithoutQueues(*manager_).ChannelName(201), "");
  entry.state.store(0);
  ExpectTakes(*reader, *one, 1);
}

TEST_F(CensusTest, LoansAndRefusalsAreCounted) {
  auto session = Attach();
  const PoolView& small = AddPool("small", 64, 2);
  ChunkRef chunks[2], none;
  for (ChunkRef& chunk : chunks)
    ASSERT_EQ(session->Loan(small, Deadline::Now(), &chunk), Code::kOk);
  for (int i = 0; i < 3; ++i)
    ASSERT_EQ(session->Loan(small, Deadline::Now(), &none), Code::kExhausted);
  for (ChunkRef& chunk : chunks) EXPECT_TRUE(session->Release(chunk));
  constexpr uint64_t kRounds = 10'000;
  for (uint64_t i = 0; i < kRounds; ++i) {
    ASSERT_EQ(session->Loan(pool(), Deadline::Now(), &chunks[0]), Code::kOk);
    ASSERT_TRUE(session->Release(chunks[0]));
  }
  EXPECT_GE(pool().shared->loan_count.load(), kRounds - 1024);  // what a cache alone has loaned
  session->FlushThisThread();
  EXPECT_EQ(pool().shared->loan_count.load(), kRounds);
  EXPECT_EQ(small.shared->loan_count.load(), 2u);
  EXPECT_EQ(small.shared->exhausted_count.load(), 3u);
  ASSERT_EQ(session->Loan(small, Deadline::Now(), &chunks[0]), Code::kOk);
  Kill(session);
  EXPECT_EQ(small.shared->recovered_chunk_count.load(), 1u);
}

}  // namespace
}  // namespace zerocp::shm
