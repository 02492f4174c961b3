// `zerocp stats --offline`: what it says with the daemon alive, dead, and everybody dead; of files
// that are no segments; and that it changes nothing.
#include <google/protobuf/util/json_util.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <filesystem>
#include <functional>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/system/daemon_process.h"
#include "zerocp/v1/observer_service.pb.h"
#include "zerocp/zerocp.h"

namespace zerocp {
namespace {

namespace fs = std::filesystem;
using testing::Ran;

class OfflineStats : public ::testing::Test {
 protected:
  Client Connect(const std::string& name) {
    auto client = Client::Connect({.name = name, .runtime_dir = daemon_.runtime_dir()});
    EXPECT_TRUE(client) << client.message();
    return std::move(*client);
  }
  Ran Run(std::vector<std::string> more = {}) const {
    more.insert(more.begin(), {"stats", "--offline"});
    return testing::RunCommand(daemon_.Command(std::move(more)));
  }
  static v1::Stats Parse(const Ran& ran) {
    EXPECT_EQ(ran.exit_code, 0) << ran.error;
    v1::GetStatsResponse response;
    EXPECT_TRUE(google::protobuf::util::JsonStringToMessage(ran.output, &response).ok())
        << ran.output;
    return response.stats();
  }
  v1::Stats Offline() const { return Parse(Run({"-o", "json"})); }
  v1::Stats Online() const {
    return Parse(testing::RunCommand(daemon_.Command({"stats", "-o", "json"})));
  }
  // Without what only a daemon knows, or what differs from one moment to the next.
  static std::string Comparable(v1::Stats stats) {
    stats.clear_read_time();
    stats.clear_start_time();
    for (auto& pool : *stats.mutable_pools()) pool.clear_min_free_chunk_count_1m();
    for (auto& segment : *stats.mutable_segments()) segment.clear_free_size_bytes();
    for (auto& channel : *stats.mutable_channels()) {
      for (auto& subscriber : *channel.mutable_subscribers()) {
        subscriber.clear_session();
        subscriber.clear_stalled_for();
      }
    }
    return stats.DebugString();
  }
  static void Send(Publisher& publisher, int count) {
    for (int i = 0; i < count; ++i) {
      auto loan = publisher.NewLoan(1);
      ASSERT_TRUE(loan) << loan.message();
      ASSERT_TRUE(publisher.Publish(*loan));
    }
  }
  static void WaitUntil(const std::function<bool()>& holds) {
    const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (!holds()) {
      ASSERT_LT(std::chrono::steady_clock::now(), limit);
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  }
  // The management segment's path, then the chunk segment's.
  std::vector<std::string> Segments() const {
    std::vector<std::string> paths = daemon_.Segments();
    EXPECT_EQ(paths.size(), 2u);
    if (paths.size() == 2 && paths[0].ends_with("_chunk")) std::swap(paths[0], paths[1]);
    return paths;
  }

  testing::DaemonProcess daemon_{{"--pool", "frames=4KiBx32", "--pool", "big=64KiBx4", "--channel",
                                  "camera=frames,queue=8", "--channel", "other=big,queue=2"}};
};

// The words of a text with one blank between them, so that columns can be found.
std::string Squeezed(const std::string& text) {
  std::string squeezed;
  for (char c : text) {
    if (c == ' ' && (squeezed.empty() || squeezed.back() == ' ' || squeezed.back() == '\n'))
      continue;
    squeezed += c;
  }
  return squeezed;
}

bool Has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST_F(OfflineStats, SaysWhatTheDaemonWouldAndChangesNothing) {
  Client writer = Connect("writer");
  Client viewer = Connect("viewer");
  auto subscriber = viewer.JoinAsSubscriber("camera");
  auto publisher = writer.JoinAsPublisher("camera");
  ASSERT_TRUE(subscriber && publisher);
  Send(*publisher, 7);
  auto first = subscriber->TryTake();
  auto second = subscriber->TryTake();
  auto loan = publisher->NewLoan(1);
  ASSERT_TRUE(first && second && loan);

  const std::string expected = Comparable(Online());
  EXPECT_EQ(Comparable(Offline()), expected);
  const std::string pid = std::to_string(daemon_.pid());
  EXPECT_TRUE(Has(Run().output, ": a daemon is alive, process " + pid + "\n")) << Run().output;

  EXPECT_EQ(daemon_.Stop(SIGKILL), 128 + SIGKILL);
  const auto paths = Segments();
  const std::string management = testing::ReadFile(paths[0]), chunks = testing::ReadFile(paths[1]);
  const auto changed = fs::last_write_time(paths[0]);
  EXPECT_EQ(Comparable(Offline()), expected);
  const v1::Stats stats = Offline();
  EXPECT_EQ(stats.attached_session_count(), 2);
  EXPECT_EQ(stats.pools(1).writing_chunk_count(), 1);
  EXPECT_EQ(stats.pools(1).shared_chunk_count(), 7);
  EXPECT_EQ(stats.channels(0).published_count(), 7);
  EXPECT_EQ(stats.channels(0).subscribers(0).queued_count(), 5);
  EXPECT_EQ(stats.channels(0).subscribers(0).client_name(), "viewer");

  const Ran ran = Run();
  EXPECT_EQ(ran.exit_code, 0) << ran.error;
  EXPECT_TRUE(ran.output.starts_with("read offline: " + paths[0] + ", instance ")) << ran.output;
  EXPECT_TRUE(Has(ran.output, ": no daemon is alive\n")) << ran.output;
  const std::string table = Squeezed(ran.output);
  EXPECT_TRUE(Has(table, "\nframes 5 queued camera 3 viewer\n")) << table;
  EXPECT_TRUE(Has(table, "\nframes 2 reading camera 3 viewer\n")) << table;
  EXPECT_TRUE(Has(table, "\nframes 1 writing 2 writer\n")) << table;
  EXPECT_TRUE(Has(table, "2 writer attached " + std::to_string(getpid()))) << table;
  EXPECT_TRUE(Has(table, " alive ")) << table;
  EXPECT_TRUE(testing::ReadFile(paths[0]) == management && testing::ReadFile(paths[1]) == chunks);
  EXPECT_EQ(fs::last_write_time(paths[0]), changed);

  daemon_.Start();  // nothing stands in its way
  EXPECT_TRUE(Has(Run().output, ": a daemon is alive, process ")) << Run().output;
}

TEST_F(OfflineStats, KeepsWhatTheDeadHadWithNobodyLeft) {
  testing::ChildProcess viewer(
      {.command = daemon_.Command({"recv", "camera"}), .output = "/dev/null"});
  WaitUntil([&] { return Offline().channels(0).subscribers_size() == 1; });
  viewer.Signal(SIGSTOP);
  testing::ChildProcess writer({.command = daemon_.Command({"send", "camera", "/dev/zero"})});
  // A full queue, and one message more that waits to be published.
  WaitUntil([&] {
    const v1::Stats stats = Offline();
    return stats.channels(0).published_count() == 8 && stats.pools(1).writing_chunk_count() == 1;
  });
  daemon_.Stop(SIGKILL);
  for (testing::ChildProcess* child : {&viewer, &writer}) {
    child->Signal(SIGKILL);
    child->Wait();
  }
  const v1::Stats stats = Offline();
  EXPECT_EQ(stats.attached_session_count(), 2);
  EXPECT_EQ(stats.channels(0).subscribers(0).queued_count(), 8);
  const std::string table = Squeezed(Run().output);
  EXPECT_TRUE(Has(table, "\nframes 8 queued camera 2 zerocp recv\n")) << table;
  EXPECT_TRUE(Has(table, "\nframes 1 writing 3 zerocp send\n")) << table;
  EXPECT_TRUE(Has(table, " gone ") && !Has(table, " alive ")) << table;
}

TEST_F(OfflineStats, SpoiledCopiesAreRefused) {
  daemon_.Stop(SIGKILL);
  const auto paths = Segments();
  const testing::TempDir dir;
  const std::string management = dir.path() + "/" + fs::path(paths[0]).filename().string();
  const std::string chunk = dir.path() + "/" + fs::path(paths[1]).filename().string();
  const auto copy = [&] {
    fs::copy_file(paths[0], management, fs::copy_options::overwrite_existing);
    fs::copy_file(paths[1], chunk, fs::copy_options::overwrite_existing);
  };
  const auto expect = [&](int exit_code, const std::string& words) {
    const Ran ran = Run({"--segment-dir", dir.path()});
    EXPECT_EQ(ran.exit_code, exit_code) << words << ": " << ran.output << ran.error;
    EXPECT_TRUE(Has(ran.error, words)) << ran.error;
  };
  const auto overwrite = [&](size_t offset, const std::string& bytes) {
    std::string whole = testing::ReadFile(management);
    testing::WriteFile(management, whole.replace(offset, bytes.size(), bytes));
  };
  expect(3, "there are no segments; looked for " + management);
  copy();
  expect(0, "");
  overwrite(8, "\x09");
  expect(5, "layout version 9");
  copy();
  overwrite(40, "\x01");
  expect(6, "the super block is damaged");
  for (size_t bytes : {size_t{1}, size_t{4095}, size_t{4096}, size_t{100'000}}) {
    copy();
    fs::resize_file(management, bytes);
    expect(6, management);
  }
  copy();
  fs::resize_file(chunk, 65536);
  expect(6, "cut short");
  fs::remove(chunk);
  expect(6, "its chunk segment is not");
  copy();
  fs::resize_file(management, 0);
  expect(3, "is not finished");

  std::mt19937 random(7);
  std::string garbage(fs::file_size(paths[0]), '\0');
  for (char& c : garbage) c = static_cast<char>(random());
  copy();
  testing::WriteFile(management, garbage);
  expect(6, "no complete super block");
  // A super block, and nothing but garbage behind it; or behind all tables.
  for (size_t offset : {size_t{4096}, size_t{65536}, size_t{1024} * 1024}) {
    copy();
    if (offset < garbage.size()) overwrite(offset, garbage.substr(offset));
    const Ran ran = Run({"--segment-dir", dir.path()});
    EXPECT_TRUE(ran.exit_code == 0 || ran.exit_code == 6) << ran.exit_code << ran.error;
  }
}

TEST_F(OfflineStats, SaysWhereItLookedAndWhatItMayNot) {
  const std::string zerocp = testing::BinDir() + "/zerocp";
  const testing::TempDir dir;
  Ran ran = testing::RunCommand(
      {zerocp, "stats", "--offline", "--instance", "nobody", "--segment-dir", dir.path()});
  EXPECT_EQ(ran.exit_code, 3);
  EXPECT_TRUE(Has(ran.error, dir.path() + "/zerocp_nobody_memory_management")) << ran.error;
  EXPECT_EQ(testing::RunCommand({zerocp, "stats", "--offline", "--instance", "../x"}).exit_code, 2);
  EXPECT_EQ(
      testing::RunCommand({zerocp, "stats", "--instance", "x", "--runtime-dir", "y"}).exit_code, 2);
  ran = testing::RunCommand({zerocp, "--instance", "x", "stats"});
  EXPECT_EQ(ran.exit_code, 3);
  EXPECT_TRUE(ran.error.find("/run/zerocp-x/") != std::string::npos) << ran.error;
  EXPECT_EQ(testing::RunCommand({zerocp, "pools", "--offline"}).exit_code, 2);

  // By its name instead of its runtime directory.
  const std::string file = fs::path(Segments()[0]).filename();
  const std::string name = file.substr(7, file.rfind("_memory_management") - 7);
  ran = testing::RunCommand({zerocp, "stats", "--offline", "--instance", name});
  EXPECT_EQ(ran.exit_code, 0) << ran.error;

  testing::WriteFile(dir.path() + "/zerocp_open_memory_management", "");
  fs::permissions(dir.path() + "/zerocp_open_memory_management", fs::perms(0644));
  ran = testing::RunCommand(
      {zerocp, "stats", "--offline", "--instance", "open", "--segment-dir", dir.path()});
  EXPECT_EQ(ran.exit_code, 4) << ran.error;
  EXPECT_TRUE(Has(ran.error, "has mode 644")) << ran.error;
}

}  // namespace
}  // namespace zerocp
