#include "server/event_log.h"

#include <gtest/gtest.h>

#include <string>
#include <thread>
#include <vector>

namespace zerocp {
namespace {

void AddSome(EventLog& log, size_t count) {
  for (size_t i = 0; i < count; ++i)
    log.Add(EventKind::kPoolChanged, "pools/video", std::to_string(i));
}

TEST(EventLogTest, NumbersCountFromOneAndReadInOrder) {
  EventLog log;
  EXPECT_FALSE(log.Next(0).has_value());
  AddSome(log, 3);
  for (int64_t after = 0; after < 3; ++after) {
    const auto event = log.Next(after);
    ASSERT_TRUE(event.has_value());
    EXPECT_EQ(event->sequence, after + 1);
    EXPECT_EQ(event->detail, std::to_string(after));
    EXPECT_EQ(event->resource, "pools/video");
  }
  EXPECT_FALSE(log.Next(3).has_value());
}

TEST(EventLogTest, CountsAreOfAllThatThereWere) {
  EventLog log;
  AddSome(log, kKeptEvents + 1);
  log.Add(EventKind::kSessionDied, "sessions/1", "x");
  EXPECT_EQ(log.Counts(), (std::map<EventKind, uint64_t>{{EventKind::kPoolChanged, kKeptEvents + 1},
                                                         {EventKind::kSessionDied, 1}}));
}

TEST(EventLogTest, TheOldestGoAndWhoComesLateFindsAGap) {
  EventLog log;
  AddSome(log, kKeptEvents + 10);
  EXPECT_EQ(log.Next(0)->sequence, 11);
  EXPECT_EQ(log.Next(5)->sequence, 11);
  EXPECT_EQ(log.Next(11)->sequence, 12);
  EXPECT_EQ(log.Next(kKeptEvents + 9)->sequence, static_cast<int64_t>(kKeptEvents + 10));
}

TEST(EventLogTest, ANumberOfTheDaemonBeforeMeansAll) {
  EventLog log;
  AddSome(log, 2);
  EXPECT_FALSE(log.Next(2).has_value());
  EXPECT_EQ(log.Next(3)->sequence, 1);
  EXPECT_EQ(log.Next(INT64_MAX)->sequence, 1);
}

TEST(EventLogTest, WhatAnEventHoldsIsBounded) {
  EventLog log;
  log.Add(EventKind::kPoolExhausted, std::string(10'000, 'r'), std::string(10'000, 'd'),
          std::vector<EventHolder>(1000));
  const auto event = log.Next(0);
  EXPECT_EQ(event->resource.size(), kMaxEventText);
  EXPECT_EQ(event->detail.size(), kMaxEventText);
  EXPECT_EQ(event->holders.size(), kMaxEventHolders);
}

TEST(EventLogTest, EachAddWakesTheListenerWhileThereIsOne) {
  EventLog log;
  int woken = 0;
  log.SetListener([&] { ++woken; });
  AddSome(log, 2);
  EXPECT_EQ(woken, 2);
  log.SetListener(nullptr);
  AddSome(log, 1);
  EXPECT_EQ(woken, 2);
}

TEST(EventLogTest, ManyThreadsAddAndEveryNumberIsThereOnce) {
  EventLog log;
  constexpr size_t kThreads = 4, kEach = 500;
  std::vector<std::thread> threads;
  for (size_t t = 0; t < kThreads; ++t) threads.emplace_back([&] { AddSome(log, kEach); });
  for (int64_t after = 0; after < static_cast<int64_t>(kThreads * kEach);) {
    const auto event = log.Next(after);
    if (!event) continue;
    ASSERT_EQ(event->sequence, after + 1);
    after = event->sequence;
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace zerocp
