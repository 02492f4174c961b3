#include "server/session_manager.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "server/error.h"
#include "shm/session.h"
#include "tests/unit/server/session_fixture.h"

namespace zerocp {
namespace {

using shm::Code;
using shm::SessionState;

constexpr int32_t kLayout = static_cast<int32_t>(shm::kLayoutVersion);
constexpr uid_t kForeign = 4711;

class SessionManagerTest : public SessionFixture {
 protected:
  uint16_t AttachSelf() {
    const auto attached = sessions_->Attach(Self(), "test", nullptr);
    EXPECT_TRUE(attached.ok()) << attached.status().message();
    return attached.ok() ? attached->id : uint16_t{0};
  }
  Event LastEvent() {
    Event last;
    while (const auto event = instance_.core.events.Next(last.sequence)) last = *event;
    return last;
  }
};

TEST_F(SessionManagerTest, AnAttachedSessionIsInTheTableTheMirrorAndTheFile) {
  const auto attached = sessions_->Attach(Self(), "camera", nullptr);
  ASSERT_TRUE(attached.ok());
  EXPECT_TRUE(IsAttached(attached->id));
  EXPECT_EQ(Mirror(attached->id).state.load(), static_cast<uint32_t>(SessionState::kAttached));
  EXPECT_EQ(Mirror(attached->id).pid, getpid());
  EXPECT_STREQ(Mirror(attached->id).name, "camera");
  const auto list = sessions_->List();
  ASSERT_EQ(list.size(), 1u);
  EXPECT_EQ(list[0].id, attached->id);
  EXPECT_EQ(list[0].name, attached->name);
  EXPECT_EQ(list[0].client_name, "camera");
  EXPECT_EQ(list[0].phase, SessionPhase::kAttached);
  EXPECT_EQ(list[0].uid, geteuid());
  struct stat info {};
  ASSERT_EQ(stat((base_ + "/sessions").c_str(), &info), 0);
  EXPECT_GE(info.st_size, (attached->id + 1) * 160);
  sessions_->Detach(attached->id);
  EXPECT_FALSE(IsAttached(attached->id));
  EXPECT_TRUE(sessions_->List().empty());
  EXPECT_EQ(Mirror(attached->id).state.load(), static_cast<uint32_t>(SessionState::kFree));
}

TEST_F(SessionManagerTest, ATokenIsGoodOnce) {
  const auto created = sessions_->Create("camera", kLayout, std::nullopt, false);
  ASSERT_TRUE(created.ok()) << created.status();
  ASSERT_EQ(sessions_->List().size(), 1u);
  EXPECT_EQ(sessions_->List()[0].phase, SessionPhase::kPending);
  const auto attached = sessions_->Attach(Self(), "", &created->token);
  ASSERT_TRUE(attached.ok()) << attached.status().message();
  EXPECT_EQ(attached->name, created->session.name);
  ASSERT_EQ(sessions_->List().size(), 1u);
  EXPECT_EQ(sessions_->List()[0].client_name, "camera");
  const auto again = sessions_->Attach(Self(), "", &created->token);
  EXPECT_EQ(again.code(), Code::kDenied);
  EXPECT_NE(again.status().message().find("used"), std::string::npos);
}

TEST_F(SessionManagerTest, WrongExpiredAndForeignTokensAreDeniedEachWithItsReason) {
  const auto created = sessions_->Create("a", kLayout, std::nullopt, false);
  const auto for_foreign = sessions_->Create("b", kLayout, kForeign, false);
  ASSERT_TRUE(created.ok() && for_foreign.ok());
  Token wrong = created->token;
  wrong[31] ^= 1;
  EXPECT_NE(sessions_->Attach(Self(), "", &wrong).status().message().find("unknown"),
            std::string::npos);
  EXPECT_NE(sessions_->Attach(Self(), "", &for_foreign->token).status().message().find("4711"),
            std::string::npos);
  now_ms_ += 10'000;
  EXPECT_NE(sessions_->Attach(Self(), "", &created->token).status().message().find("expired"),
            std::string::npos);
  EXPECT_TRUE(sessions_->List().empty());
  now_ms_ += 60'000;
  ASSERT_TRUE(sessions_->Create("c", kLayout, std::nullopt, false).ok());  // forgets the old ones
  EXPECT_NE(sessions_->Attach(Self(), "", &created->token).status().message().find("unknown"),
            std::string::npos);
}

TEST_F(SessionManagerTest, ATokenIsGoodUntilJustBeforeItsTime) {
  const auto created = sessions_->Create("a", kLayout, std::nullopt, false);
  now_ms_ += 9'999;
  EXPECT_TRUE(sessions_->Attach(Self(), "", &created->token).ok());
}

TEST_F(SessionManagerTest, OnlyTheInstancesUserAndRootMayAttach) {
  Peer foreign = Self();
  foreign.uid = kForeign;
  EXPECT_EQ(sessions_->Attach(foreign, "", nullptr).code(), Code::kDenied);
  // Not even with a token, which stays good.
  const auto created = sessions_->Create("a", kLayout, std::nullopt, false);
  EXPECT_EQ(sessions_->Attach(foreign, "", &created->token).code(), Code::kDenied);
  EXPECT_TRUE(sessions_->Attach(Self(), "", &created->token).ok());
  Peer root = Self();
  root.uid = 0;
  EXPECT_TRUE(sessions_->Attach(root, "", nullptr).ok());
}

class SystemSessionManagerTest : public SessionFixture {
 protected:
  SystemSessionManagerTest() : SessionFixture(/*any_user=*/true) {}
};

TEST_F(SystemSessionManagerTest, ASystemServiceTakesWhomItsSocketLetsIn) {
  Peer foreign = Self();
  foreign.uid = kForeign;
  EXPECT_TRUE(sessions_->Attach(foreign, "", nullptr).ok());
  const auto created = sessions_->Create("a", kLayout, kForeign, false);
  EXPECT_TRUE(sessions_->Attach(foreign, "", &created->token).ok());
}

TEST_F(SessionManagerTest, CreateRefusesOtherLayoutsAndUnprintableNames) {
  EXPECT_EQ(ReasonOf(sessions_->Create("a", kLayout + 1, std::nullopt, false).status()),
            "LAYOUT_VERSION_MISMATCH");
  EXPECT_EQ(ReasonOf(sessions_->Create("a\n", kLayout, std::nullopt, false).status()),
            "FIELD_INVALID");
  EXPECT_EQ(
      ReasonOf(sessions_->Create(std::string(64, 'a'), kLayout, std::nullopt, false).status()),
      "FIELD_INVALID");
  EXPECT_TRUE(sessions_->Create(std::string(63, 'a'), kLayout, std::nullopt, false).ok());
}

TEST_F(SessionManagerTest, TokensThatWaitAreBoundedAndExpire) {
  size_t created = 0;
  while (sessions_->Create("a", kLayout, std::nullopt, false).ok()) ++created;
  EXPECT_EQ(created, 1024u);
  EXPECT_EQ(ReasonOf(sessions_->Create("a", kLayout, std::nullopt, false).status()),
            "SESSION_LIMIT");
  now_ms_ += 10'000;
  EXPECT_TRUE(sessions_->Create("a", kLayout, std::nullopt, false).ok());
}

TEST_F(SessionManagerTest, IdsGoRoundRobinUntilAllAreTaken) {
  const uint32_t capacity = instance_.core.manager->session_capacity() - shm::kFirstSession;
  const uint16_t first = AttachSelf();
  EXPECT_EQ(first, shm::kFirstSession);
  sessions_->Detach(first);
  std::set<uint16_t> ids;
  for (uint32_t i = 0; i < capacity; ++i) ids.insert(AttachSelf());
  EXPECT_EQ(ids.size(), capacity);
  EXPECT_EQ(*ids.begin(), shm::kFirstSession);
  EXPECT_EQ(sessions_->Attach(Self(), "", nullptr).code(), Code::kLimit);
  sessions_->Detach(77);
  EXPECT_EQ(AttachSelf(), 77);
}

TEST_F(SessionManagerTest, WhatASessionSaidOfItsProcessIsForgottenWhenItsIdIsUsedAgain) {
  const uint16_t id = AttachSelf();
  shm::SessionEntry& entry = instance_.core.manager->session_entry(id);
  entry.joined_barrier.store(1);
  entry.cache_thread_count.store(3);
  entry.known_serials[0].store(9);
  sessions_->Detach(id);
  while (AttachSelf() != id) {
  }
  EXPECT_EQ(entry.joined_barrier.load(), 0u);
  EXPECT_EQ(entry.cache_thread_count.load(), 0u);
  EXPECT_EQ(entry.known_serials[0].load(), 0u);
}

TEST_F(SessionManagerTest, WhatADeadSessionOwnedIsFreeBeforeItsIdIsUsedAgain) {
  ASSERT_TRUE(instance_.pools.Create(Spec("p", 4096, 64)).ok());
  const uint16_t id = AttachSelf();
  const uint16_t other = AttachSelf();
  // A client that dies: its Session object is never closed. The manager is borrowed.
  std::shared_ptr<shm::MemPoolManager> manager(instance_.core.manager.get(), [](auto*) {});
  auto* client = new shm::Session(manager, id);
  shm::ChunkRef ref;
  ASSERT_EQ(client->Loan(*manager->FindPool("p"), shm::Deadline::Now(), &ref), Code::kOk);
  EXPECT_GE(shm::HeldCounts(*manager)[id], 1u);
  sessions_->Died(shm::SessionSet().set(id).set(other).set(99));
  EXPECT_EQ(shm::Count(*manager->FindPool("p")).free_count, 64u);
  EXPECT_FALSE(IsAttached(id));
  EXPECT_EQ(sessions_->recovered_session_count(), 2u);
  EXPECT_TRUE(sessions_->List().empty());
  EXPECT_TRUE(log_.Has("died: "));
  client->Close();
  delete client;
}

TEST_F(SessionManagerTest, TheNextDaemonFindsTheSessionsOrphanedAndRecoversStrangers) {
  ASSERT_TRUE(instance_.pools.Create(Spec("p", 4096, 64)).ok());
  const uint16_t id = AttachSelf();
  const std::string name = sessions_->List()[0].name;
  // A session the table does not know owns a chunk, as if a daemon's file had been lost in part.
  std::shared_ptr<shm::MemPoolManager> manager(instance_.core.manager.get(), [](auto*) {});
  auto* stranger = new shm::Session(manager, 200);
  shm::ChunkRef ref;
  ASSERT_EQ(stranger->Loan(*manager->FindPool("p"), shm::Deadline::Now(), &ref), Code::kOk);

  sessions_ = Open();
  const auto restored = sessions_->Restore();
  ASSERT_TRUE(restored.ok());
  EXPECT_EQ(*restored, 1u);
  ASSERT_EQ(sessions_->List().size(), 1u);
  EXPECT_EQ(sessions_->List()[0].phase, SessionPhase::kOrphaned);
  EXPECT_EQ(sessions_->List()[0].name, name);
  EXPECT_EQ(sessions_->Living().at(id).pid, getpid());
  EXPECT_EQ(sessions_->Living().at(id).start_time, StartTimeOf(getpid()));
  EXPECT_TRUE(IsAttached(id));
  EXPECT_EQ(shm::Count(*manager->FindPool("p")).free_count, 64u);
  stranger->Close();
  delete stranger;
}

TEST_F(SessionManagerTest, OnlyTheProcessThatAttachedComesBackAndOnlyWithItsCookie) {
  const auto attached = sessions_->Attach(Self(), "camera", nullptr);
  ASSERT_TRUE(attached.ok());
  sessions_ = Open();  // the next daemon
  ASSERT_TRUE(sessions_->Restore().ok());
  Cookie wrong = attached->cookie;
  wrong[0] ^= 1;
  Peer other = Self();
  other.process.pid += 1;
  Peer later = Self();  // the pid was used again
  later.process.start_time += 1;
  Peer foreign = Self();
  foreign.uid = kForeign;
  for (const auto& [peer, cookie] :
       {std::pair(Self(), wrong), std::pair(Self(), Cookie{}), std::pair(other, attached->cookie),
        std::pair(later, attached->cookie), std::pair(foreign, attached->cookie)}) {
    EXPECT_EQ(sessions_->Reconnect(peer, attached->id, cookie).code(), Code::kInstanceLost);
    EXPECT_EQ(sessions_->List().at(0).phase, SessionPhase::kOrphaned);
  }
  const auto back = sessions_->Reconnect(Self(), attached->id, attached->cookie);
  ASSERT_TRUE(back.ok()) << back.status().message();
  EXPECT_EQ(back->name, attached->name);
  EXPECT_EQ(sessions_->List().at(0).phase, SessionPhase::kAttached);
  EXPECT_EQ(Mirror(attached->id).state.load(), static_cast<uint32_t>(SessionState::kAttached));
  sessions_->Detach(attached->id);
  EXPECT_EQ(sessions_->Reconnect(Self(), attached->id, attached->cookie).code(),
            Code::kInstanceLost);
}

TEST_F(SessionManagerTest, ASessionOutOfTheMirrorHasNoCookieNotEvenZeros) {
  const uint16_t id = AttachSelf();
  ASSERT_EQ(unlink((base_ + "/sessions").c_str()), 0);
  sessions_ = Open();
  ASSERT_TRUE(sessions_->Restore().ok());
  EXPECT_EQ(sessions_->Reconnect(Self(), id, Cookie{}).code(), Code::kInstanceLost);
}

TEST_F(SessionManagerTest, TerminateEndsWithTheSessionWithAKillOrWithoutAWord) {
  using std::chrono::milliseconds;
  std::vector<absl::StatusOr<uint64_t>> answers;
  const auto done = [&](absl::StatusOr<uint64_t> answer) { answers.push_back(std::move(answer)); };
  const auto name = [&] { return sessions_->List().at(0).name; };
  bool cannot_answer = false;
  std::vector<uint16_t> killed;
  int error = 0;
  const auto advance = [&] {
    sessions_->AdvanceTerminations([&](uint16_t) { return cannot_answer; },
                                   [&](uint16_t id) { return killed.push_back(id), error; });
  };
  sessions_->Terminate("sessions/0", "user 0", true, milliseconds(5000), done);
  ASSERT_EQ(answers.size(), 1u);
  EXPECT_EQ(ReasonOf(answers[0].status()), "SESSION_NOT_FOUND");

  // Detaches in time.
  uint16_t id = AttachSelf();
  sessions_->Terminate(name(), "user 0", true, milliseconds(5000), done);
  EXPECT_EQ(Mirror(id).state.load(), static_cast<uint32_t>(SessionState::kRevoked));
  EXPECT_TRUE(sessions_->IsRevoked(id));
  now_ms_ += 1'999;
  advance();
  EXPECT_EQ(answers.size(), 1u);
  sessions_->Detach(id);
  ASSERT_EQ(answers.size(), 2u);
  EXPECT_TRUE(answers[1].ok());
  EXPECT_TRUE(killed.empty());

  // Does not: killed once, after 2 s; asked for twice.
  id = AttachSelf();
  sessions_->Terminate(name(), "user 0", true, milliseconds(5000), done);
  sessions_->Terminate(name(), "user 0", false, milliseconds(5000), done);
  sessions_->Orphan(id);
  EXPECT_EQ(sessions_->List().at(0).phase, SessionPhase::kRevoked);
  now_ms_ += 2'000;
  advance();
  advance();
  EXPECT_EQ(killed, std::vector<uint16_t>{id});
  EXPECT_EQ(answers.size(), 2u);
  sessions_->Died(shm::SessionSet().set(id));
  EXPECT_EQ(LastEvent().kind, EventKind::kSessionKilled);
  EXPECT_NE(LastEvent().detail.find(" was killed by TerminateSession: 0 chunks recovered in "),
            std::string::npos)
      << LastEvent().detail;
  ASSERT_EQ(answers.size(), 4u);
  EXPECT_TRUE(answers[2].ok() && answers[3].ok());

  // Cannot answer, and may not be killed; then nobody kills it.
  id = AttachSelf();
  cannot_answer = true;
  error = EPERM;
  sessions_->Terminate(name(), "user 0", true, milliseconds(5000), done);
  advance();
  ASSERT_EQ(answers.size(), 5u);
  EXPECT_EQ(ReasonOf(answers[4].status()), "SIGNAL_NOT_PERMITTED");
  sessions_->Terminate(name(), "user 0", false, milliseconds(100), done);
  now_ms_ += 100;
  advance();
  ASSERT_EQ(answers.size(), 6u);
  EXPECT_EQ(ReasonOf(answers[5].status()), "STILL_ATTACHED");
  sessions_->Terminate(name(), "user 0", false, milliseconds(100), done);
  sessions_->AbandonTerminations();
  ASSERT_EQ(answers.size(), 7u);
  EXPECT_EQ(ReasonOf(answers[6].status()), "SERVER_DRAINING");

  // A token that waits is good for nothing afterwards.
  sessions_->Detach(id);
  const auto created = sessions_->Create("a", kLayout, std::nullopt, false);
  sessions_->Terminate(created->session.name, "user 0", false, milliseconds(100), done);
  ASSERT_EQ(answers.size(), 8u);
  EXPECT_TRUE(answers[7].ok());
  EXPECT_EQ(sessions_->Attach(Self(), "", &created->token).code(), Code::kDenied);
}

// An end by an operator is no death, nor is the next death of its id an operator's doing.
TEST_F(SessionManagerTest, WhoHadASessionKilledIsInItsEvents) {
  using std::chrono::milliseconds;
  for (const bool kill : {true, false}) {
    const uint16_t id = AttachSelf();
    sessions_->Terminate(sessions_->List().at(0).name, "user 7", kill, milliseconds(5000),
                         [](const absl::StatusOr<uint64_t>&) {});
    EXPECT_EQ(LastEvent().kind, EventKind::kSessionRevoked);
    EXPECT_NE(LastEvent().detail.find("user 7"), std::string::npos) << LastEvent().detail;
    sessions_->AdvanceTerminations([](uint16_t) { return true; }, [](uint16_t) { return 0; });
    sessions_->Died(shm::SessionSet().set(id));
    EXPECT_EQ(LastEvent().kind, kill ? EventKind::kSessionKilled : EventKind::kSessionDied);
  }
}

TEST_F(SessionManagerTest, EventsTellWhoCameWhoLeftAndWhoDied) {
  const auto left = sessions_->Attach(Self(), "left", nullptr);
  const auto dies = sessions_->Attach(Self(), "dies", nullptr);
  ASSERT_TRUE(left.ok() && dies.ok());
  sessions_->Orphan(dies->id);
  sessions_->Detach(left->id);
  sessions_->Died(shm::SessionSet().set(dies->id));
  const auto first = sessions_->Attach(Self(), "first", nullptr);
  const auto second = sessions_->Attach(Self(), "second", nullptr);
  ASSERT_TRUE(first.ok() && second.ok());
  sessions_->Died(shm::SessionSet().set(first->id).set(second->id));
  const struct {
    EventKind kind;
    std::string resource;
    std::string text;
  } expected[] = {
      {EventKind::kSessionAttached, left->name, "\"left\" pid"},
      {EventKind::kSessionAttached, dies->name, "\"dies\" pid"},
      {EventKind::kSessionOrphaned, dies->name, "what it holds stays"},
      {EventKind::kSessionDetached, left->name, "detached: 0 chunks freed"},
      {EventKind::kSessionDied, dies->name, "died: 0 chunks recovered in"},
      {EventKind::kSessionAttached, first->name, "\"first\" pid"},
      {EventKind::kSessionAttached, second->name, "\"second\" pid"},
      {EventKind::kSessionDied, first->name, " us, of 2 sessions together"},
      {EventKind::kSessionDied, second->name, "died: recovered together with " + first->name},
  };
  int64_t number = 0;
  for (const auto& wanted : expected) {
    const auto event = instance_.core.events.Next(number++);
    ASSERT_TRUE(event.has_value());
    EXPECT_EQ(event->kind, wanted.kind);
    EXPECT_EQ(event->resource, wanted.resource);
    EXPECT_NE(event->detail.find(wanted.text), std::string::npos) << event->detail;
  }
  EXPECT_FALSE(instance_.core.events.Next(number).has_value());
}

TEST_F(SessionManagerTest, WithoutTheFileTheMirrorIsBelieved) {
  const uint16_t id = AttachSelf();
  ASSERT_EQ(unlink((base_ + "/sessions").c_str()), 0);
  sessions_ = Open();
  const auto restored = sessions_->Restore();
  ASSERT_TRUE(restored.ok());
  EXPECT_EQ(*restored, 1u);
  EXPECT_EQ(sessions_->Living().at(id).pid, getpid());
}

TEST_F(SessionManagerTest, ATableThatWasCutIsNotBelieved) {
  const uint16_t id = AttachSelf();
  ASSERT_TRUE((sessions_ = Open())->Restore().ok());
  const std::string path = base_ + "/sessions";
  for (const size_t bytes : {std::filesystem::file_size(path) - 1, sizeof(SessionRecord)}) {
    ASSERT_EQ(truncate(path.c_str(), static_cast<off_t>(bytes)), 0);
    sessions_ = Open();
    const auto restored = sessions_->Restore();
    ASSERT_TRUE(restored.ok());
    EXPECT_EQ(*restored, 1u);
    EXPECT_EQ(sessions_->Living().at(id).pid, getpid());
  }
}

TEST_F(SessionManagerTest, ASessionThatAnOperatorEndedStaysEndedWithoutTheFile) {
  const uint16_t id = AttachSelf();
  sessions_->Terminate(sessions_->List().at(0).name, "user 0", true,
                       std::chrono::milliseconds(5000), [](const absl::StatusOr<uint64_t>&) {});
  ASSERT_EQ(unlink((base_ + "/sessions").c_str()), 0);
  sessions_ = Open();
  ASSERT_TRUE(sessions_->Restore().ok());
  EXPECT_EQ(Mirror(id).state.load(), static_cast<uint32_t>(SessionState::kRevoked));
  EXPECT_TRUE(sessions_->IsRevoked(id));
}

TEST_F(SessionManagerTest, ATableOfAnotherInstanceIsNotBelieved) {
  (void)AttachSelf();
  const int fd = open((base_ + "/sessions").c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_EQ(pwrite(fd, "another instance", 16, 16), 16);  // the uuid
  close(fd);
  Mirror(shm::kFirstSession).state.store(0);
  sessions_ = Open();
  const auto restored = sessions_->Restore();
  ASSERT_TRUE(restored.ok());
  EXPECT_EQ(*restored, 0u);
}

TEST_F(SessionManagerTest, WhatATableSaysOfASessionIsMadeSound) {
  const auto one = sessions_->Attach(Self(), "camera", nullptr);
  const auto two = sessions_->Attach(Self(), "viewer", nullptr);
  ASSERT_TRUE(one.ok() && two.ok());
  SessionTable table(shm::UniqueFd(open((base_ + "/sessions").c_str(), O_RDWR | O_CLOEXEC)));
  SessionTable::Records records;
  ASSERT_TRUE(table.Read(instance_.core.manager->instance_uuid(), 256, &records));
  const SessionRecord sound = records[two->id];
  SessionRecord unprintable = sound;
  unprintable.pid = -1;
  std::memset(unprintable.name, '\xff', sizeof(unprintable.name));
  std::memset(unprintable.client_name, '\xff', sizeof(unprintable.client_name));
  SessionRecord of_one = sound;
  one->name.copy(of_one.name, sizeof(of_one.name));
  for (const SessionRecord& record : {unprintable, of_one}) {
    ASSERT_TRUE(table.Write(two->id, record));
    sessions_ = Open();
    ASSERT_TRUE(sessions_->Restore().ok());
    const std::vector<SessionInfo> list = sessions_->List();
    ASSERT_EQ(list.size(), 2u);
    EXPECT_EQ(list[0].name, one->name);
    EXPECT_NE(list[1].name, one->name);
    EXPECT_TRUE(list[1].name.starts_with("sessions/") && IsValidLabel(list[1].name));
    EXPECT_EQ(list[1].client_name, record.pid < 0 ? "" : "viewer");
    EXPECT_EQ(list[1].pid, std::max(record.pid, 0));
  }
}

TEST_F(SessionManagerTest, ATokenNeverReachesTheLog) {
  const auto created = sessions_->Create("a", kLayout, std::nullopt, false);
  (void)sessions_->Attach(Self(), "", &created->token);
  std::string hex;
  for (size_t i = 0; i < 4; ++i) hex += fmt::format("{:02x}", created->token[i]);
  EXPECT_FALSE(log_.Has(hex));
  EXPECT_FALSE(log_.Has(std::string(created->token.begin(), created->token.begin() + 4)));
}

}  // namespace
}  // namespace zerocp
