// What an operator sees: `zerocp events` and the subscribers of `zerocp stats`, with a real daemon.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <functional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/system/daemon_process.h"
#include "zerocp/zerocp.h"

namespace zerocp::testing {
namespace {

using std::chrono::steady_clock;

constexpr int kKeptEvents = 4096;

bool Has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

std::vector<std::string> Lines(const std::string& text) {
  std::vector<std::string> lines;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = text.find('\n', begin);
    lines.push_back(text.substr(begin, end - begin));
    begin = end == std::string::npos ? text.size() : end + 1;
  }
  return lines;
}

// The first line with all these parts; empty: there is none.
std::string LineWith(const std::string& text, const std::vector<std::string>& parts) {
  for (const std::string& line : Lines(text)) {
    bool all = true;
    for (const std::string& part : parts) all = all && Has(line, part);
    if (all) return line;
  }
  return {};
}

// Its words, by single blanks.
std::string Squeezed(const std::string& line) {
  std::string squeezed;
  for (char c : line)
    if (c != ' ' || (!squeezed.empty() && squeezed.back() != ' ')) squeezed += c;
  return squeezed;
}

class Operator : public ::testing::Test {
 protected:
  Client Connect(const std::string& name) {
    auto client = Client::Connect({.name = name, .runtime_dir = daemon_.runtime_dir()});
    EXPECT_TRUE(client) << client.message();
    return std::move(*client);
  }
  Ran Run(std::vector<std::string> arguments) {
    return RunCommand(daemon_.Command(std::move(arguments)));
  }
  static void Send(Publisher& publisher, int count) {
    for (int i = 0; i < count; ++i) {
      auto loan = publisher.NewLoan(1);
      ASSERT_TRUE(loan) << loan.message();
      ASSERT_TRUE(publisher.Publish(*loan));
    }
  }
  static void WaitUntil(const std::function<bool()>& holds, const std::string& what) {
    const auto limit = steady_clock::now() + std::chrono::minutes(1);
    while (!holds()) {
      ASSERT_LT(steady_clock::now(), limit) << "never: " << what;
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  }
  std::string Followed() const { return ReadFile(dir_.path() + "/out"); }
  std::string FollowError() const { return ReadFile(dir_.path() + "/err"); }
  ChildOptions Follow() {
    return {.command = daemon_.Command({"events", "--follow"}),
            .output = dir_.path() + "/out",
            .error = dir_.path() + "/err"};
  }
  void WaitForFollowed(const std::string& text) {
    WaitUntil([&] { return Has(Followed(), text); }, text);
  }

  TempDir dir_;
  // Events 1 to 5: the daemon, the pool, three channels.
  DaemonProcess daemon_{{"--pool", "p=4KiBx32", "--channel", "a=p,queue=8", "--channel",
                         "b=p,queue=4", "--channel", "z=p,queue=4,when-full=drop"}};
};

TEST_F(Operator, EventsAreALineEachWithTheLargestHolders) {
  Client hog = Connect("hog");
  std::vector<Loan> loans;
  for (auto loan = hog.NewLoan("p", 1); loan; loan = hog.NewLoan("p", 1))
    loans.push_back(std::move(*loan));
  EXPECT_EQ(loans.size(), 32u);
  Ran ran{};
  WaitUntil(
      [&] {
        ran = Run({"events"});
        return Has(ran.output, "pool-exhausted");
      },
      "pool-exhausted");
  EXPECT_EQ(ran.exit_code, 0);
  EXPECT_EQ(ran.error, "");
  const std::vector<std::string> lines = Lines(ran.output);
  ASSERT_EQ(lines.size(), 8u) << ran.output;
  EXPECT_EQ(Squeezed(lines[0]), "EVENT TIME KIND RESOURCE WHAT");
  EXPECT_TRUE(LineWith(ran.output, {"     1  ", "  daemon-started  ", " created "}).size());
  EXPECT_TRUE(LineWith(ran.output, {"     2  ", "  pool-changed  ", "  pools/p  "}).size());
  EXPECT_TRUE(LineWith(ran.output, {"     6  ", "  session-attached  ", "\"hog\" pid "}).size());
  EXPECT_TRUE(LineWith(ran.output, {"     7  ", "  pool-exhausted  ", "  pools/p  ",
                                    "no free chunk of its 32; held by hog (pid ", "): 32 writing"})
                  .size())
      << ran.output;
}

TEST_F(Operator, EventsBeginWhereTheyAreToldTo) {
  const Ran after = Run({"events", "--after", "4"});
  EXPECT_EQ(Lines(after.output).size(), 2u) << after.output;
  EXPECT_TRUE(Has(after.output, "\n     5  ")) << after.output;
  const Ran json = Run({"events", "--after", "3", "-o", "json"});
  ASSERT_EQ(Lines(json.output).size(), 2u) << json.output;
  EXPECT_TRUE(Lines(json.output)[0].starts_with("{\"sequence\":\"4\",\"kind\":\"KIND_CHANNEL_CHAN"))
      << json.output;

  EXPECT_EQ(Lines(Run({"events", "--since", "1d"}).output).size(), 6u);
  EXPECT_EQ(Lines(Run({"events", "--since", "0"}).output).size(), 1u);
  for (const char* wrong : {"-1", "1x", "soon"})
    EXPECT_EQ(Run({"events", "--since", wrong}).exit_code, 2) << wrong;
  EXPECT_EQ(Run({"events", "--after", "-1"}).exit_code, 2);
}

TEST_F(Operator, EventsThatAreMissingAreALine) {
  EXPECT_FALSE(Has(Run({"events"}).output, "--"));
  Ran ran = Run({"events", "--after", "100"});
  EXPECT_TRUE(Has(ran.output, "\n-- event 100 was another daemon's")) << ran.output;
  EXPECT_EQ(Lines(ran.output).size(), 7u) << ran.output;

  ChildProcess slow(Follow());
  WaitForFollowed("     5  ");
  slow.Signal(SIGSTOP);
  // Two events each: more than are kept, and more than that and what the connection takes in.
  for (int i = 0; i < kKeptEvents * 3 / 2; ++i) Connect("passer-by");
  ran = Run({"events", "--after", "5"});
  const std::vector<std::string> lines = Lines(ran.output);
  ASSERT_GE(lines.size(), static_cast<size_t>(kKeptEvents) + 2);  // and who leaves meanwhile
  const std::string first = Squeezed(lines[2]);
  const int sequence = std::stoi(first.substr(0, first.find(' ')));
  EXPECT_GT(sequence, kKeptEvents);
  const std::string gap = "-- events 6 to " + std::to_string(sequence - 1) + " are missing: ";
  EXPECT_TRUE(lines[1].starts_with(gap)) << lines[1];
  ran = Run({"events", "--after", "5", "-o", "json"});
  EXPECT_GE(Lines(ran.output).size(), static_cast<size_t>(kKeptEvents));
  EXPECT_TRUE(ran.error.starts_with("-- events 6 to ")) << ran.error;

  slow.Signal(SIGCONT);
  WaitForFollowed(" are missing: ");
}

TEST_F(Operator, FollowingGoesOnUntilASignal) {
  for (int signal : {SIGINT, SIGTERM}) {
    ChildProcess follower(Follow());
    WaitForFollowed("     5  ");
    const std::string name = "guest-" + std::to_string(signal);
    Connect(name);
    WaitForFollowed("\"" + name + "\"");
    follower.Signal(signal);
    EXPECT_EQ(follower.Wait(), 0) << FollowError();
    EXPECT_EQ(FollowError(), "");
  }
}

TEST_F(Operator, FollowingSaysThatTheDaemonHasGone) {
  for (int signal : {SIGTERM, SIGKILL}) {
    ChildProcess follower(Follow());
    WaitForFollowed("     1  ");
    Connect("guest");
    WaitForFollowed("\"guest\"");
    daemon_.Stop(signal);
    EXPECT_EQ(follower.Wait(), 3);
    EXPECT_TRUE(Has(FollowError(), "client.sock has gone after event ")) << FollowError();
    daemon_.Start();
  }
}

TEST_F(Operator, FollowingIntoAClosedOutputFails) {
  int pipe_ends[2];
  ASSERT_EQ(pipe2(pipe_ends, O_CLOEXEC), 0);
  ChildOptions options = Follow();
  options.output_fd = pipe_ends[1];
  ChildProcess follower(options);
  close(pipe_ends[1]);
  close(pipe_ends[0]);
  EXPECT_EQ(follower.Wait(), 1);
  EXPECT_TRUE(Has(FollowError(), "the reader of the output is gone")) << FollowError();
}

TEST_F(Operator, FollowingEndsWhenTheReaderOfItsOutputHasGone) {
  int pipe_ends[2];
  ASSERT_EQ(pipe2(pipe_ends, O_CLOEXEC), 0);
  ChildOptions options = Follow();
  options.output_fd = pipe_ends[1];
  ChildProcess follower(options);
  close(pipe_ends[1]);
  std::string seen;
  char byte = 0;
  while (Lines(seen).size() < 6 && read(pipe_ends[0], &byte, 1) == 1) seen += byte;
  close(pipe_ends[0]);  // and nothing happens that it could write
  EXPECT_EQ(follower.Wait(), 1);
  EXPECT_TRUE(Has(FollowError(), "the reader of the output is gone")) << FollowError();
}

TEST_F(Operator, ASignalEndsFollowingAlsoWhileItsOutputTakesNothing) {
  int pipe_ends[2];
  ASSERT_EQ(pipe2(pipe_ends, O_CLOEXEC), 0);
  const int capacity = fcntl(pipe_ends[0], F_SETPIPE_SZ, 4096);
  ASSERT_GE(capacity, 4096);
  for (int i = 0; i < capacity / 100; ++i) Connect("passer-by");  // two lines each, of 100 and more
  ChildOptions options = Follow();
  options.output_fd = pipe_ends[1];
  ChildProcess follower(options);
  close(pipe_ends[1]);
  const auto stuck = [&] {  // full, and its main thread sleeps
    int queued = 0;
    const std::string stat = ReadFile("/proc/" + std::to_string(follower.pid()) + "/stat");
    return ioctl(pipe_ends[0], FIONREAD, &queued) == 0 && queued > capacity - 1024 &&
           Has(stat, ") S ");
  };
  int looks = 0;
  WaitUntil([&] { return (looks = stuck() ? looks + 1 : 0) == 10; }, "an output that is full");
  follower.Signal(SIGTERM);
  EXPECT_EQ(follower.Wait(), 0);
  EXPECT_EQ(FollowError(), "");
  close(pipe_ends[0]);
}

TEST_F(Operator, WhatCannotBeWrittenIsAnError) {
  const std::vector<std::vector<std::string>> commands = {
      {"pools"}, {"channels"}, {"sessions"},           {"info"},
      {"audit"}, {"stats"},    {"stats", "--offline"}, {"stats", "-o", "json"},
      {"events"}};
  for (const auto& command : commands) {
    const std::string error = dir_.path() + "/err";
    ChildProcess full({.command = daemon_.Command(command), .output = "/dev/full", .error = error});
    EXPECT_EQ(full.Wait(), 1) << command[0];
    EXPECT_EQ(ReadFile(error), "zerocp: write: No space left on device\n") << command[0];
  }
}

TEST_F(Operator, StatsNameTheSlowSubscriberFirst) {
  Client client = Connect("quick");
  Client other = Connect("sleepy");
  auto to_a = client.JoinAsPublisher("a");
  auto to_b = client.JoinAsPublisher("b");
  auto to_z = client.JoinAsPublisher("z");
  auto quick = client.JoinAsSubscriber("a");
  auto sleepy = other.JoinAsSubscriber("b");
  auto lossy = client.JoinAsSubscriber("z");
  ASSERT_TRUE(to_a && to_b && to_z && quick && sleepy && lossy);
  Send(*to_b, 4);
  const auto held = sleepy->TryTake();
  ASSERT_TRUE(held);
  Send(*to_z, 6);
  int taken = 0;
  while (lossy->TryTake()) ++taken;
  const std::string lost =
      " active 0 0 4 0 " + std::to_string(taken) + " " + std::to_string(6 - taken);
  EXPECT_LT(taken, 6);
  const auto rows = [](const std::string& stats) {
    std::vector<std::string> found;
    for (const std::string& line : Lines(stats))
      if (line.starts_with("channels/")) found.push_back(Squeezed(line));
    return found;
  };
  WaitUntil(
      [&] {
        const std::string row = LineWith(Run({"stats"}).output, {"channels/b/subscribers/"});
        return row.ends_with(" s") && !Has(row, " 0.");
      },
      "a stall of a second");
  Send(*to_a, 7);  // a longer queue, for a shorter time

  std::vector<std::string> seen = rows(Run({"stats"}).output);
  ASSERT_EQ(seen.size(), 3u);
  EXPECT_TRUE(seen[0].starts_with("channels/b/") && Has(seen[0], " sleepy active 3 3 4 1 1 0 "))
      << seen[0];
  EXPECT_TRUE(seen[0].ends_with(" s")) << seen[0];
  EXPECT_TRUE(seen[1].starts_with("channels/a/") && Has(seen[1], " quick active 7 7 8 0 0 0 "))
      << seen[1];
  EXPECT_TRUE(seen[2].starts_with("channels/z/") && seen[2].ends_with(lost + " -")) << seen[2];

  seen = rows(Run({"stats", "--offline"}).output);  // which knows no times
  ASSERT_EQ(seen.size(), 3u);
  EXPECT_TRUE(seen[0].ends_with(" quick active 7 7 8 0 0 0 -")) << seen[0];
  EXPECT_TRUE(seen[1].ends_with(" sleepy active 3 3 4 1 1 0 -")) << seen[1];
  EXPECT_TRUE(seen[2].ends_with(lost + " -")) << seen[2];
}

TEST_F(Operator, StatsCountWhoHasNotComeBackToARestartedDaemon) {
  const Client client = Connect("guest");
  EXPECT_TRUE(Has(Run({"stats"}).output, "\nsessions: 1 attached, 0 recovered"));
  daemon_.Stop(SIGKILL);
  daemon_.Start();
  const char* const orphaned = "\nsessions: 0 attached, 1 orphaned (no connection to a daemon; ";
  for (const Ran& stats : {Run({"stats"}), Run({"stats", "--offline"})})
    EXPECT_TRUE(Has(stats.output, orphaned)) << stats.output;
}

TEST_F(Operator, ALoanThatWaitsInVainIsRefusedOnce) {
  Client hog = Connect("hog");
  std::vector<Loan> loans;
  for (auto loan = hog.NewLoan("p", 1); loan; loan = hog.NewLoan("p", 1))
    loans.push_back(std::move(*loan));
  EXPECT_TRUE(Has(Run({"stats", "-o", "json"}).output, "\"exhausted_count\": \"1\""));
  // Longer than the slices in which it looks after the daemon.
  EXPECT_EQ(hog.NewLoan("p", 1, std::chrono::milliseconds(1200)).code(), Code::kExhausted);
  EXPECT_TRUE(Has(Run({"stats", "-o", "json"}).output, "\"exhausted_count\": \"2\""));
}

TEST_F(Operator, StatsAreShownAgainAndAgainUntilASignal) {
  const auto watch = [&](std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"stats", "--watch", "--interval", "0.1"});
    return ChildOptions{.command = daemon_.Command(std::move(arguments)),
                        .output = dir_.path() + "/out",
                        .error = dir_.path() + "/err"};
  };
  {
    ChildProcess tables(watch({}));
    WaitForFollowed("sessions: 0 attached");
    Client guest = Connect("guest");
    WaitForFollowed("sessions: 1 attached");
    tables.Signal(SIGINT);
    EXPECT_EQ(tables.Wait(), 0);
  }
  const std::vector<std::string> lines = Lines(Followed());
  EXPECT_TRUE(lines[0].ends_with("Z") && Has(lines[0], "T")) << lines[0];
  EXPECT_TRUE(lines[1].starts_with("POOL ")) << lines[1];
  EXPECT_TRUE(Has(Followed(), "\n\n" + lines[0].substr(0, 4))) << Followed();
  ChildProcess json(watch({"-o", "json"}));
  WaitUntil([&] { return Lines(Followed()).size() >= 3; }, "three lines");
  daemon_.Stop(SIGTERM);
  EXPECT_EQ(json.Wait(), 3);
  EXPECT_TRUE(Has(FollowError(), "is stopping")) << FollowError();
  for (const std::string& line : Lines(Followed()))
    EXPECT_TRUE(line.starts_with("{\"stats\":{") && line.ends_with("}")) << line;
  for (const char* interval : {"0", "0.05", "3601", "x"})
    EXPECT_EQ(Run({"stats", "--watch", "--interval", interval}).exit_code, 2) << interval;
  EXPECT_EQ(Run({"stats", "--interval", "1"}).exit_code, 2);
  EXPECT_EQ(Run({"stats", "--watch", "--offline"}).exit_code, 2);
}

}  // namespace
}  // namespace zerocp::testing
