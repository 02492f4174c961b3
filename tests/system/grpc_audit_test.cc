// The audit log of a real daemon: who did what, over which listener, and what came of it; and the
// number by which an error is found in it and in the daemon's log.
#include <google/protobuf/struct.pb.h>
#include <google/protobuf/util/json_util.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "tests/system/child_process.h"
#include "tests/system/daemon_process.h"
#include "tests/system/grpc_fixture.h"

namespace zerocp {
namespace {

using google::protobuf::Struct;
using testing::ChildProcess;
using testing::ReadFile;

std::vector<Struct> Lines(const std::string& text) {
  std::vector<Struct> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) {
    Struct parsed;
    EXPECT_TRUE(google::protobuf::util::JsonStringToMessage(line, &parsed).ok()) << line;
    lines.push_back(parsed);
  }
  return lines;
}

std::string Text(const Struct& line, const std::string& key) {
  const auto field = line.fields().find(key);
  return field == line.fields().end() ? "" : field->second.string_value();
}

double Number(const Struct& line, const std::string& key) {
  const auto field = line.fields().find(key);
  return field == line.fields().end() ? -1 : field->second.number_value();
}

class AuditTest : public ::testing::Test {
 protected:
  // The first `count` lines; ctest's time limit is the watchdog.
  std::vector<Struct> WaitForLines(size_t count) {
    for (;;) {
      const std::string text = ReadFile(path_);
      if (static_cast<size_t>(std::count(text.begin(), text.end(), '\n')) >= count)
        return Lines(text);
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  }

  const testing::TempDir dir_;
  const std::string path_ = dir_.path() + "/audit.log";
  testing::DaemonProcess daemon_{{"--pool", "video=4096x16", "--audit-log", path_}};
  const Caller admin_{daemon_.socket("admin.sock")};
  const Caller client_{daemon_.socket("client.sock")};
};

TEST_F(AuditTest, EveryChangeIsALineWhateverCameOfIt) {
  const std::string create = R"({"poolId":"a\"b","pool":{"chunkSizeBytes":64,"chunkCount":1}})";
  admin_.Call(kCreatePool, R"({"poolId":"a","pool":{"chunkSizeBytes":64,"chunkCount":1}})");
  admin_.Call(kUpdatePool, R"({"pool":{"name":"pools/a","chunkCount":2},"validateOnly":true})");
  const Outcome invalid = admin_.Call(kCreatePool, create);
  const Outcome missing = admin_.Call(kDeletePool, R"({"name":"pools/none"})");
  const Outcome session = client_.Call(kCreateSession, R"({"clientName":"me",)" + kLayout + "}");
  client_.Call(kListPools);  // changes nothing
  admin_.Call(kAudit);
  const Outcome undecodable = admin_.CallBytes(kCreatePool, "\x0a\xff");
  client_.CallBytes(kGetPool, "\x0a\xff");  // would change nothing

  const struct {
    const char* listener;
    const char* role;
    std::string method;
    const char* resource;
    const char* code;
    const char* reason;
    std::string id;  // empty: the call has none to compare
  } rows[] = {
      {"admin", "admin", kCreatePool, "pools/a", "OK", "", ""},
      {"admin", "admin", kUpdatePool, "pools/a", "OK", "", ""},
      {"admin", "admin", kCreatePool, "pools/a\"b", "INVALID_ARGUMENT", "FIELD_INVALID",
       invalid.request_id},
      {"admin", "admin", kDeletePool, "pools/none", "NOT_FOUND", "POOL_NOT_FOUND",
       missing.request_id},
      {"client", "client", kCreateSession, "", "OK", "", ""},
      {"admin", "admin", kAudit, "", "OK", "", ""},
      {"admin", "admin", kCreatePool, "", "INVALID_ARGUMENT", "FIELD_INVALID",
       undecodable.request_id},
  };
  const std::vector<Struct> lines = WaitForLines(std::size(rows));
  ASSERT_EQ(lines.size(), std::size(rows));
  for (size_t i = 0; i < lines.size(); ++i) {
    SCOPED_TRACE(lines[i].ShortDebugString());
    EXPECT_EQ(Text(lines[i], "listener"), rows[i].listener);
    EXPECT_EQ(Text(lines[i], "role"), rows[i].role);
    EXPECT_EQ(Text(lines[i], "method"), rows[i].method);
    EXPECT_EQ(Text(lines[i], "resource"), rows[i].resource);
    EXPECT_EQ(Text(lines[i], "code"), rows[i].code);
    EXPECT_EQ(Text(lines[i], "reason"), rows[i].reason);
    EXPECT_EQ(Text(lines[i], "id").size(), 16u);
    EXPECT_TRUE(rows[i].id.empty() || Text(lines[i], "id") == rows[i].id);
    EXPECT_EQ(Number(lines[i], "uid"), getuid());
    EXPECT_EQ(Number(lines[i], "pid"), getpid());
    EXPECT_EQ(Text(lines[i], "time").size(), std::string("2026-01-01T00:00:00.000Z").size());
  }
  const auto& update = lines[1].fields().at("request").struct_value();
  EXPECT_TRUE(update.fields().at("validateOnly").bool_value());
  EXPECT_EQ(update.fields().at("pool").struct_value().fields().at("chunkCount").string_value(),
            "2");
  // The token goes to the caller alone.
  const std::string mark = "\"handshakeToken\":\"";
  const size_t begin = session.json.find(mark) + mark.size();
  const std::string token = session.json.substr(begin, session.json.find('"', begin) - begin);
  ASSERT_GE(token.size(), 40u) << session.json;
  EXPECT_FALSE(Contains(ReadFile(path_), token));
  EXPECT_FALSE(Contains(daemon_.Log(), token));
}

std::vector<std::string> Diff(const Struct& line) {
  std::vector<std::string> diff;
  const auto field = line.fields().find("diff");
  if (field == line.fields().end()) return diff;
  for (const auto& value : field->second.list_value().values())
    diff.push_back(value.string_value());
  return diff;
}

TEST_F(AuditTest, EachLineTellsWhatTheCallChanged) {
  const Outcome session = client_.Call(kCreateSession, R"({"clientName":"me",)" + kLayout + "}");
  const std::string mark = R"("name":")";
  const size_t begin = session.json.find(mark) + mark.size();
  const std::string name = session.json.substr(begin, session.json.find('"', begin) - begin);
  ASSERT_TRUE(Contains(name, "sessions/")) << session.json;
  const struct {
    std::string method, request;
    std::vector<std::string> diff;
  } rows[] = {
      {kCreatePool,
       R"({"poolId":"a","pool":{"chunkSizeBytes":64,"chunkCount":1}})",
       {"+ pools/a (1 chunk of 64 bytes, room for 4)"}},
      {kCreatePool, R"({"poolId":"a","pool":{"chunkSizeBytes":64},"allowExisting":true})", {}},
      {kCreatePool, R"({"poolId":"a","pool":{"chunkSizeBytes":64,"chunkCount":1}})", {}},
      {kUpdatePool,
       R"({"pool":{"name":"pools/a","chunkCount":2},"validateOnly":true})",
       {"~ pools/a.chunk_count 1 -> 2"}},
      {kUpdatePool,
       R"({"pool":{"name":"pools/a","chunkCount":3,"autoGrow":true}})",
       {"~ pools/a.auto_grow false -> true", "~ pools/a.chunk_count 1 -> 3"}},
      {kCreateChannel,
       R"({"channelId":"c","channel":{"pool":"pools/a","whenFull":2}})",
       {"+ channels/c (pools/a, WHEN_FULL_WAIT, queue of 16)"}},
      {kDeleteChannel,
       R"({"name":"channels/c"})",
       {"- channels/c (pools/a, WHEN_FULL_WAIT, queue of 16)"}},
      {kApplyConfig,
       R"({"config":{"pools":[{"name":"pools/b","chunkSizeBytes":64,"chunkCount":1}]},
           "allowDeletion":true,"validateOnly":true})",
       {"- pools/a (3 chunks of 64 bytes, room for 4, grows by itself)",
        "+ pools/b (1 chunk of 64 bytes, room for 4)",
        "- pools/video (16 chunks of 4096 bytes, room for 64)"}},
      {kDeletePool,
       R"({"name":"pools/a"})",
       {"- pools/a (3 chunks of 64 bytes, room for 4, grows by itself)"}},
      {kDeletePool, R"({"name":"pools/a","allowMissing":true})", {}},
      {"zerocp.v1.AdminService/SetLogLevel", R"({"level":2})", {"~ log_level info -> debug"}},
      {"zerocp.v1.AdminService/TerminateSession",
       "{\"name\":\"" + name + "\"}",
       {"- " + name + " (held 0 chunks)"}},
      {"zerocp.v1.AdminService/TerminateSession", "{\"name\":\"" + name + "\"}", {}},
      // Not stale segments: those of tests that run beside this one are some.
      {"zerocp.v1.AdminService/Cleanup", R"({"kinds":["KIND_DEAD_SESSION"]})", {}},
  };
  for (const auto& row : rows) admin_.Call(row.method, row.request);
  const std::vector<Struct> lines = WaitForLines(1 + std::size(rows));
  EXPECT_EQ(Diff(lines[0]), std::vector<std::string>{"+ " + name + " (me)"});
  for (size_t i = 0; i < std::size(rows); ++i) {
    SCOPED_TRACE(lines[i + 1].ShortDebugString());
    EXPECT_EQ(Text(lines[i + 1], "method"), rows[i].method);
    EXPECT_EQ(Diff(lines[i + 1]), rows[i].diff);
  }
}

// Each process has a connection of its own, and many descriptors are used again and again.
TEST_F(AuditTest, EachLineNamesTheProcessThatCalled) {
  constexpr int kRounds = 8;
  constexpr int kAtOnce = 6;
  std::map<pid_t, int> expected;
  for (int round = 0; round < kRounds; ++round) {
    std::vector<std::unique_ptr<ChildProcess>> children;
    for (int i = 0; i < kAtOnce; ++i) {
      children.push_back(std::make_unique<ChildProcess>(
          testing::ChildOptions{.command = daemon_.Command({"audit"})}));
      ++expected[children.back()->pid()];
    }
    for (const auto& child : children) EXPECT_EQ(child->Wait(), 0);
  }
  std::map<pid_t, int> seen;
  for (const Struct& line : WaitForLines(kRounds * kAtOnce))
    ++seen[static_cast<pid_t>(Number(line, "pid"))];
  EXPECT_EQ(seen, expected);
}

TEST_F(AuditTest, AnErrorIsFoundByItsNumber) {
  const Outcome change = admin_.Call(kDeletePool, R"({"name":"pools/none"})");
  const Outcome read = client_.Call(kGetPool, R"({"name":"pools/none"})");
  const Outcome undecodable = client_.CallBytes(kGetPool, "\x0a\xff");
  for (const Outcome& outcome : {change, read, undecodable}) {
    ASSERT_EQ(outcome.request_id.size(), 16u) << outcome.message;
    EXPECT_TRUE(Contains(daemon_.Log(), outcome.request_id)) << daemon_.Log();
  }
  EXPECT_NE(change.request_id, read.request_id);
  WaitForLines(1);
  EXPECT_TRUE(Contains(ReadFile(path_), change.request_id));
}

TEST_F(AuditTest, ErrorsStaySmallAndDoNotFillTheLog) {
  const std::string name(100'000, 'x');
  for (int i = 0; i < 300; ++i) {
    const Outcome outcome = client_.Call(kListHeldChunks, R"({"holder":"sessions/)" + name + "\"}");
    ASSERT_FALSE(outcome.ok());
    ASSERT_LE(outcome.status_bytes, 3072u);
    ASSERT_EQ(outcome.request_id.size(), 16u);
  }
  const std::string log = daemon_.Log();
  size_t lines = 0;
  for (size_t at = log.find("error "); at != std::string::npos; at = log.find("error ", at + 1))
    ++lines;
  EXPECT_GT(lines, 0u);
  EXPECT_LT(log.size(), 300'000u);
}

TEST(AuditDaemonTest, AFileThatTakesNothingDoesNotStopTheDaemon) {
  testing::DaemonProcess daemon({"--pool", "video=4096x16", "--audit-log", "/dev/full"});
  const Caller admin(daemon.socket("admin.sock"));
  for (int i = 0; i < 20; ++i) EXPECT_EQ(admin.Call(kAudit).code, kOk);
  while (!Contains(daemon.Log(), "audit log /dev/full: No space left on device"))
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_EQ(daemon.Stop(SIGTERM), 0);
}

}  // namespace
}  // namespace zerocp
