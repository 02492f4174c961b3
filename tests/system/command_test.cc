// The words of `zerocp` that change and show a daemon: what they print, and their exit codes.
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "tests/system/certificates.h"
#include "tests/system/daemon_process.h"
#include "zerocp/zerocp.h"

namespace zerocp::testing {
namespace {

bool Has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// The lines after the headings, their words by single blanks.
std::vector<std::string> Rows(const std::string& table) {
  std::vector<std::string> rows(1);
  for (char c : table) {
    if (c == '\n') {
      rows.emplace_back();
    } else if (c != ' ' || (!rows.back().empty() && rows.back().back() != ' ')) {
      rows.back() += c;
    }
  }
  rows.pop_back();
  if (!rows.empty()) rows.erase(rows.begin());
  return rows;
}

class Command : public ::testing::Test {
 protected:
  Ran Run(std::vector<std::string> arguments) {
    return RunCommand(daemon_.Command(std::move(arguments)));
  }
  // What a word prints that must succeed.
  std::string Done(std::vector<std::string> arguments) {
    const std::string word = arguments[0] + (arguments.size() > 1 ? " " + arguments[1] : "");
    const Ran ran = Run(std::move(arguments));
    EXPECT_EQ(ran.exit_code, 0) << word << ": " << ran.error;
    return ran.output;
  }
  Client Connect(const std::string& name) {
    auto client = Client::Connect({.name = name, .runtime_dir = daemon_.runtime_dir()});
    EXPECT_TRUE(client) << client.message();
    return std::move(*client);
  }

  TempDir dir_;
  DaemonProcess daemon_{{"--pool", "p=4KiBx16", "--channel", "c=p,queue=8"}};
};

TEST_F(Command, PoolsAreCreatedGrownAndDeleted) {
  std::string shown = Done({"pools", "create", "q", "64KiB", "8", "--max-chunks", "32"});
  EXPECT_TRUE(Rows(shown)[0].starts_with("q 64 KiB 64 B 8 32 no 24 active ")) << shown;
  EXPECT_TRUE(shown.ends_with("\ncreated\n")) << shown;
  EXPECT_EQ(Run({"pools", "create", "q", "64KiB", "8"}).exit_code, 1);
  shown = Done({"pools", "create", "q", "64KiB", "8", "--max-chunks", "32", "--allow-existing"});
  EXPECT_TRUE(shown.ends_with("\nwas there already\n")) << shown;

  shown = Done({"pools", "grow", "q", "24", "--validate-only"});
  EXPECT_TRUE(Has(shown, "nothing was: --validate-only")) << shown;
  EXPECT_TRUE(Has(Rows(Done({"pools"}))[1], "q 64 KiB 64 B 8 32 "));
  const Ran none = Run({"pools", "grow", "q", "0"});
  EXPECT_EQ(none.exit_code, 2);
  EXPECT_TRUE(Has(none.error, "COUNT: 0 must be from 1 to 16777216")) << none.error;
  Done({"pools", "grow", "pools/q", "24"});
  EXPECT_TRUE(Has(Rows(Done({"pools"}))[1], "q 64 KiB 64 B 24 32 "));
  const Ran more = Run({"pools", "grow", "q", "33"});
  EXPECT_EQ(more.exit_code, 1);
  EXPECT_TRUE(Has(more.error, "32")) << more.error;

  Client client = Connect("holder");
  {
    auto loan = client.NewLoan("q", 1);
    ASSERT_TRUE(loan) << loan.message();
    EXPECT_EQ(Run({"pools", "delete", "q"}).exit_code, 1);
    EXPECT_TRUE(Has(Done({"pools", "delete", "q", "--drain"}), "draining: "));
    EXPECT_TRUE(Has(Done({"pools"}), " draining "));
  }
  EXPECT_EQ(Done({"pools", "create", "r", "64", "8", "--auto-grow", "-o", "yaml"}).substr(0, 22),
            "pool:\n  name: \"pools/r");
  EXPECT_TRUE(Has(Rows(Done({"pools"})).back(), "r 64 B 64 B 8 32 yes "));
  EXPECT_EQ(Done({"pools", "delete", "r"}), "deleted\n");
  EXPECT_EQ(Done({"pools", "delete", "r", "--allow-missing"}), "there is none\n");
}

TEST_F(Command, ChannelsAreCreatedAndDeleted) {
  std::string shown = Done({"channels", "create", "d", "--pool", "p", "--when-full", "drop",
                            "--queue", "4", "--message-type", "acme.Tick/3"});
  EXPECT_EQ(Rows(shown)[0], "d p drop-oldest 4 - - 16 acme.Tick/3");
  Done({"channels", "create", "w", "--pool", "pools/p", "--when-full", "wait", "--history", "1"});
  EXPECT_EQ(Rows(Done({"channels"}))[2], "w p wait 16 - 1 15") << Done({"channels"});
  Client client = Connect("publisher");
  auto publisher = client.JoinAsPublisher("d");
  ASSERT_TRUE(publisher);
  EXPECT_EQ(Run({"channels", "delete", "d"}).exit_code, 1);
  Done({"channels", "delete", "d", "--even-if-in-use"});
  EXPECT_EQ(Run({"channels", "delete", "d"}).exit_code, 1);
  EXPECT_EQ(Rows(Done({"channels"})).size(), 2u);
}

TEST_F(Command, HoldersSubscribersAndSessionsAreNamedAsTheWordsThatEndThemTakeThem) {
  Client publisher_client = Connect("camera");
  Client subscriber_client = Connect("sleepy");
  auto publisher = publisher_client.JoinAsPublisher("c");
  auto subscriber = subscriber_client.JoinAsSubscriber("c");
  ASSERT_TRUE(publisher && subscriber);
  for (int i = 0; i < 3; ++i) {
    auto loan = publisher->NewLoan(1);
    ASSERT_TRUE(loan);
    ASSERT_TRUE(publisher->Publish(*loan));
  }
  auto sample = subscriber->TryTake();
  ASSERT_TRUE(sample);
  const std::string holders = Done({"holders", "--pool", "p"});
  const std::string pid = std::to_string(getpid());
  EXPECT_TRUE(Has(Rows(holders)[0], " sleepy " + pid + " p c queued 2 ")) << holders;
  EXPECT_TRUE(std::ranges::any_of(Rows(holders), [&](const std::string& row) {
    return Has(row, " sleepy " + pid + " p c reading 1 ");
  })) << holders;
  const std::string holder = Rows(holders)[0].substr(0, Rows(holders)[0].find(' '));
  EXPECT_EQ(Rows(Done({"holders", "--holder", holder})).size(), 2u);
  const std::string bare = holder.substr(holder.find('/') + 1);
  EXPECT_EQ(Rows(Done({"holders", "--holder", bare})).size(), 2u);
  EXPECT_TRUE(Has(Done({"holders", "-o", "json"}), "\"phase\": \"PHASE_QUEUED\""));

  const std::string row = Rows(Done({"subscribers"}))[0];
  EXPECT_TRUE(Has(row, " sleepy active 2 2 8 1 1 0 ")) << row;
  const std::string name = row.substr(0, row.find(' '));
  EXPECT_EQ(Done({"subscribers", "detach", name}), "messages it had not taken  2\n");
  EXPECT_TRUE(Has(Rows(Done({"subscribers"}))[0], " sleepy detached "));
  bool offline = false;
  for (const std::string& line : Rows(Done({"stats", "--offline"})))
    offline = offline || line.starts_with(name + " sleepy detached ");
  EXPECT_TRUE(offline);
  EXPECT_EQ(subscriber->TryTake().code(), Code::kDetached);
  EXPECT_EQ(Run({"subscribers", "detach", "c/subscribers/1"}).exit_code, 1);

  const Ran alive = Run({"sessions", "terminate", holder});
  EXPECT_EQ(alive.exit_code, 1);  // an answer, although it is that time is over
  EXPECT_TRUE(Has(alive.error, "has not detached; `kill` ends it")) << alive.error;
}

TEST_F(Command, ASessionIsTerminatedWithItsProcess) {
  ChildProcess receiver({.command = daemon_.Command({"recv", "c"})});
  std::vector<std::string> sessions;
  while (receiver.Running() && sessions.empty()) sessions = Rows(Done({"sessions"}));
  ASSERT_EQ(sessions.size(), 1u);
  const std::string session = sessions[0].substr(0, sessions[0].find(' '));
  receiver.Signal(SIGSTOP);  // or it ends when it is told
  EXPECT_EQ(Done({"sessions", "terminate", session, "--kill"}), "chunks released  0\n");
  EXPECT_EQ(receiver.Wait(), 128 + SIGKILL);
  EXPECT_TRUE(Rows(Done({"sessions"})).empty());
  const std::string events = Done({"events"});
  EXPECT_TRUE(Has(events, "is to detach, says user " + std::to_string(geteuid()) + " (process "));
  EXPECT_TRUE(Has(events, "was killed by TerminateSession: 0 chunks recovered")) << events;
  EXPECT_FALSE(Has(events, "session-died")) << events;
}

TEST_F(Command, TheLogLevelIsChangedAndSaid) {
  EXPECT_EQ(Done({"log-level", "debug"}), "before  info\n");
  EXPECT_EQ(Done({"log-level"}), "before  debug\n");
  const Ran wrong = Run({"log-level", "loud"});
  EXPECT_EQ(wrong.exit_code, 2);
  EXPECT_TRUE(Has(wrong.error, "loud is none of trace, debug, info, warn, error")) << wrong.error;
}

TEST_F(Command, WhatCannotBeIsWrongUsage) {
  for (const std::vector<std::string>& wrong : std::vector<std::vector<std::string>>{
           {"pools", "create", "q", "64XB", "8"},
           {"pools", "create", "q", "64KiB", "many"},
           {"pools", "create", "q", "64KiB", "-1"},
           {"pools", "create", "q", "64KiB", "8", "--max-holders", "2147483648"},
           {"pools", "create", "q", "64KiB"},
           {"channels", "create", "x", "--pool", "p"},
           {"channels", "create", "x", "--pool", "p", "--when-full", "sometimes"},
           {"pools", "shrink", "p", "1"},
           {"pools", "-o", "xml"},
           {"info", "--address", "localhost:1"},
           {"recv", "c", "--address", "/tmp/none"},
           {"info", "--timeout", "0"},
           {"info", "--timeout", "1e10"},
           {"info", "--timeout", "inf"},
           {"info", "--timeout", "nan"},
           {"recv", "c", "--timeout", "1e300"},
           {"tap", "c", "--timeout", "-1"},
           {"events", "--since", "20000d"},
           {"stats", "--watch", "--interval", "nan"}}) {
    const Ran ran = Run(wrong);
    EXPECT_EQ(ran.exit_code, 2) << wrong[0] << " " << wrong[1] << ": " << ran.error;
    EXPECT_FALSE(ran.error.empty());
  }
  const std::string error = Run({"info", "--timeout", "1e10"}).error;
  EXPECT_TRUE(Has(error, "1e10 does not do: it must be from 1e-09 to 1000000000")) << error;
  Done({"info", "--timeout", "1e9"});
  Done({"events", "--since", "1e9"});
}

TEST_F(Command, EveryWordTakesBothNamesOfAResource) {
  Done({"pools", "create", "pools/q", "4KiB", "8"});
  Done({"channels", "create", "channels/d", "--pool", "q", "--when-full", "drop"});
  EXPECT_TRUE(Rows(Done({"pools"}))[1].starts_with("q "));
  EXPECT_TRUE(Rows(Done({"channels"}))[1].starts_with("d q "));
  WriteFile(dir_.path() + "/bytes", "bytes");
  for (const char* name : {"d", "channels/d"}) {
    Done({"hz", name, "--count", "1", "--interval", "0.1"});
    Done({"send", name, dir_.path() + "/bytes", "--no-wait"});
    for (const char* word : {"recv", "tap"}) {
      const Ran ran = Run({word, name, "--timeout", "0"});
      EXPECT_EQ(ran.exit_code, 1);
      EXPECT_TRUE(Has(ran.error, "in time")) << word << ": " << ran.error;
    }
  }
  Done({"channels", "delete", "channels/d"});
  Done({"pools", "delete", "pools/q"});
  EXPECT_TRUE(Has(Run({"--help"}).output, "video or\npools/video"));
}

TEST_F(Command, ADiffSaysWhetherAnApplyWouldChangeAnything) {
  const std::string file = dir_.path() + "/zerocp.yaml";
  const std::string shown = Done({"config", "show"});
  EXPECT_EQ(Done({"config", "get"}), shown);
  WriteFile(file, shown);
  EXPECT_EQ(Done({"config", "diff", file}), "nothing to change\n");
  Done({"pools", "create", "q", "64KiB", "8"});
  const Ran differs = Run({"config", "diff", file});
  EXPECT_EQ(differs.exit_code, 3) << differs.error;
  EXPECT_TRUE(differs.output.starts_with("- pools/q ")) << differs.output;
  EXPECT_EQ(Rows(Done({"pools"})).size(), 2u);
  EXPECT_EQ(Run({"config", "apply", file, "--allow-deletion"}).exit_code, 1);  // another etag
  WriteFile(file, shown.substr(0, shown.find("etag")));
  Done({"config", "apply", file, "--allow-deletion"});
  Done({"pools", "grow", "p", "20"});  // a pool keeps what it has more
  const Ran kept = Run({"config", "diff", file});
  EXPECT_EQ(kept.exit_code, 0) << kept.error;
  EXPECT_TRUE(kept.output.starts_with("= pools/p")) << kept.output;
  WriteFile(file, "pools: 3\n");
  EXPECT_EQ(Run({"config", "diff", file}).exit_code, 1);
  for (const std::string& unreadable :
       {file + ".none", std::string("/tmp"), std::string("/dev/zero")})
    EXPECT_EQ(Run({"config", "diff", unreadable}).exit_code, 1) << unreadable;
  daemon_.Stop(SIGTERM);
  EXPECT_EQ(Run({"config", "diff", "-"}).exit_code, 1);  // not 3, which says something else
}

TEST_F(Command, AnswersAreYamlWithNumbersAndText) {
  const std::string yaml = Done({"stats", "-o", "yaml"});
  EXPECT_TRUE(yaml.starts_with("stats:\n  read_time: 20")) << yaml;
  EXPECT_TRUE(Has(yaml, "\n    - pool: \"pools/p\"\n      chunk_count: 16\n")) << yaml;
  EXPECT_TRUE(Has(yaml, "\n      publisher_count: 0\n")) << yaml;
  EXPECT_TRUE(Done({"events", "-o", "yaml"}).starts_with("---\nsequence: 1\n"));
  // Options of every word may stand before it, too.
  const Ran before = RunCommand(
      {BinDir() + "/zerocp", "--runtime-dir", daemon_.runtime_dir(), "-o", "yaml", "pools"});
  EXPECT_EQ(before.output, Done({"pools", "-o", "yaml"}));
}

TEST_F(Command, TheDoctorSaysWhatToChange) {
  const Ran healthy = Run({"doctor", "--segment-dir", "/dev/shm"});
  EXPECT_TRUE(Has(healthy.output, "\nok      sockets            this user may open attach.sock, "));
  EXPECT_TRUE(Has(healthy.output, "process " + std::to_string(daemon_.pid()) + ", at "))
      << healthy.output;
  EXPECT_TRUE(Has(healthy.output, "\nok      pools              all 1 have free chunks\n"));
  EXPECT_TRUE(Has(Done({"info"}), " " + daemon_.runtime_dir() + "\n"));
  Client hog = Connect("hog");
  std::vector<Loan> loans;
  for (auto loan = hog.NewLoan("p", 1); loan; loan = hog.NewLoan("p", 1))
    loans.push_back(std::move(*loan));
  const Ran hungry = Run({"doctor", "--segment-dir", "/dev/shm"});
  EXPECT_EQ(hungry.exit_code, 1);
  EXPECT_TRUE(Has(hungry.output, "\nchange  pools              p has no free chunk of its 16, "))
      << hungry.output;
  EXPECT_TRUE(Has(hungry.output, "-> zerocp holders --pool p names who has them"));
  const std::string dir = dir_.path() + "/run";
  ASSERT_EQ(mkdir(dir.c_str(), 0700), 0);
  ASSERT_EQ(chmod(dir.c_str(), 0777), 0);
  const std::vector<std::string> command{BinDir() + "/zerocp", "doctor", "--runtime-dir", dir};
  Ran ill = RunCommand(command);
  EXPECT_EQ(ill.exit_code, 1);
  EXPECT_TRUE(Has(ill.output, "change  runtime directory  ")) << ill.output;
  EXPECT_TRUE(Has(ill.output, "\n                        -> chmod go-w " + dir + "\n"));
  EXPECT_TRUE(Has(ill.output, "note    daemon             none answers\n")) << ill.output;
  std::vector<std::string> json = command;
  json.insert(json.end(), {"-o", "json"});
  ill = RunCommand(json);
  EXPECT_EQ(ill.exit_code, 1);
  EXPECT_TRUE(ill.output.starts_with("{\"findings\": [{\"check\": \"daemon\", ")) << ill.output;
  EXPECT_TRUE(Has(ill.output, "\"change\": \"chmod go-w " + dir + "\""));
}

TEST_F(Command, TheDoctorSaysThatADaemonWentWhileItLooked) {
  // The first connection lies in the queue, which has room for no other.
  sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
  const std::string path = dir_.path() + "/client.sock";
  path.copy(address.sun_path, sizeof(address.sun_path) - 1);
  const int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  ASSERT_EQ(bind(listener, reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  ASSERT_EQ(listen(listener, 0), 0);
  const std::string output = dir_.path() + "/output";
  ChildProcess doctor({.command = {BinDir() + "/zerocp", "doctor", "--runtime-dir", dir_.path()},
                       .output = output});
  pollfd waiting{listener, POLLIN, 0};
  ASSERT_EQ(poll(&waiting, 1, -1), 1);
  close(listener);
  EXPECT_EQ(doctor.Wait(), 1);
  const std::string shown = ReadFile(output);
  EXPECT_TRUE(Has(shown, "change  daemon             " + path + " is open, but: ")) << shown;
}

TEST_F(Command, AnAddressIsASocketOrTls) {
  const std::string zerocp = BinDir() + "/zerocp";
  for (const std::string prefix : {"", "unix:"}) {
    const Ran by_path =
        RunCommand({zerocp, "audit", "--address", prefix + daemon_.socket("admin.sock")});
    EXPECT_EQ(by_path.exit_code, 0) << by_path.error;
  }
  EXPECT_EQ(RunCommand({zerocp, "audit", "--address", daemon_.socket("client.sock")}).exit_code, 1);
  EXPECT_EQ(RunCommand({zerocp, "info", "--address", dir_.path() + "/none"}).exit_code, 3);

  const TestAuthority authority;
  const auto path = [&](const std::string& name) { return dir_.path() + "/" + name; };
  const auto write = [&](const std::string& name, const Identity& identity) {
    WriteFile(path(name + ".pem"), identity.certificate);
    WriteFile(path(name + ".key"), identity.key);
  };
  WriteFile(path("ca.pem"), authority.certificate());
  write("server", authority.Sign({.names = "IP:127.0.0.1"}));
  write("operator", authority.Sign({.names = "DNS:operator.test"}));
  write("stranger", TestAuthority().Sign({.names = "DNS:operator.test"}));
  const DaemonProcess remote({"--tls-listen", "127.0.0.1:0", "--tls-cert", path("server.pem"),
                              "--tls-key", path("server.key"), "--tls-ca", path("ca.pem"),
                              "--tls-admin", "operator.test"});
  const std::string info = RunCommand(remote.Command({"info"})).output;
  std::string address = info.substr(info.find("TLS address") + 11);
  address = address.substr(0, address.find('\n'));
  address.erase(0, address.find_first_not_of(' '));
  const auto ask = [&](const std::string& who) {
    return RunCommand({zerocp, "audit", "--address", address, "--tls-ca", path("ca.pem"),
                       "--tls-cert", path(who + ".pem"), "--tls-key", path(who + ".key"),
                       "--timeout", "30"});
  };
  EXPECT_EQ(ask("operator").exit_code, 0) << ask("operator").error;
  EXPECT_EQ(ask("stranger").exit_code, 3);
  const Ran none = ask("nobody");
  EXPECT_EQ(none.exit_code, 2);
  EXPECT_TRUE(Has(none.error, "nobody.pem: No such file")) << none.error;
  std::filesystem::create_directory(path("folder.pem"));
  EXPECT_TRUE(Has(ask("folder").error, "folder.pem: Is a directory")) << ask("folder").error;
}

}  // namespace
}  // namespace zerocp::testing
