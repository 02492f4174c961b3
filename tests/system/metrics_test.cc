// The metrics that a daemon serves for Prometheus: what they say, and that Prometheus' own checker
// has nothing against them.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <functional>
#include <string>
#include <thread>

#include "shm/unique_fd.h"
#include "tests/system/daemon_process.h"

namespace zerocp::testing {
namespace {

bool Contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// Of those that deploy/setup.sh installs.
std::string Tool(const std::string& name) {
  const char* dir = std::getenv("ZEROCP_TOOLS");
  return std::string(dir == nullptr ? "/usr/local/lib/zerocp-tools" : dir) + "/" + name;
}

std::string AddressIn(const std::string& log) {
  const std::string before = "metrics: http://";
  const size_t begin = log.find(before);
  return begin == std::string::npos
             ? ""
             : log.substr(begin + before.size(),
                          log.find('/', begin + before.size()) - begin - before.size());
}

bool Eventually(const std::function<bool()>& condition) {
  const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > limit) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return true;
}

// Where a daemon serves them, once it is ready; "" if it does not.
std::string AddressOf(const DaemonProcess& daemon) {
  EXPECT_TRUE(Eventually([&] { return Contains(daemon.Log(), "ready:"); }));
  return AddressIn(daemon.Log());
}

std::string Get(const std::string& address, const std::string& path) {
  const size_t colon = address.rfind(':');
  sockaddr_in peer{};
  peer.sin_family = AF_INET;
  peer.sin_port = htons(static_cast<uint16_t>(std::stoul(address.substr(colon + 1))));
  inet_pton(AF_INET, address.substr(0, colon).c_str(), &peer.sin_addr);
  const shm::UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&peer), sizeof(peer)) != 0) return "";
  const std::string request = "GET " + path + " HTTP/1.0\r\n\r\n";
  if (send(fd.get(), request.data(), request.size(), MSG_NOSIGNAL) < 0) return "";
  std::string answer;
  char buffer[4096];
  for (ssize_t got = 0; (got = read(fd.get(), buffer, sizeof(buffer))) > 0;)
    answer.append(buffer, static_cast<size_t>(got));
  return answer;
}

// The body of /metrics, after an end of line.
std::string Scrape(const DaemonProcess& daemon) {
  const std::string answer = Get(AddressOf(daemon), "/metrics");
  const size_t end_of_head = answer.find("\r\n\r\n");
  return end_of_head == std::string::npos ? "" : answer.substr(end_of_head + 3);
}

// A whole line of it.
bool Has(const std::string& metrics, const std::string& line) {
  return Contains(metrics, "\n" + line + "\n");
}

TEST(MetricsTest, TheySayWhatIsThereAndWhatHappened) {
  DaemonProcess daemon(
      {"--pool", "video=4KiBx16", "--channel", "frames=video", "--metrics-listen", "0"});
  EXPECT_TRUE(AddressOf(daemon).starts_with("127.0.0.1:")) << daemon.Log();
  std::string metrics = Scrape(daemon);
  EXPECT_TRUE(Contains(metrics, "\nzerocp_build_info{version=\"")) << metrics;
  EXPECT_TRUE(Has(metrics, R"(zerocp_pool_chunks{pool="video",state="free"} 16)")) << metrics;
  EXPECT_TRUE(Has(metrics, R"(zerocp_pool_chunk_size_bytes{pool="video"} 4096)"));
  EXPECT_TRUE(Has(metrics, R"(zerocp_channel_subscribers{channel="frames"} 0)"));
  EXPECT_TRUE(Has(metrics, R"(zerocp_events_total{kind="session_died"} 0)"));
  EXPECT_FALSE(Contains(metrics, "certificate"));

  ChildProcess receiver({.command = daemon.Command({"recv", "frames"})});
  EXPECT_TRUE(Eventually([&] {
    return Has(Scrape(daemon),
               R"(zerocp_subscriber_queued_messages{channel="frames",subscriber="0"} 0)");
  }));
  receiver.Signal(SIGSTOP);
  EXPECT_EQ(RunCommand(daemon.Command({"send", "frames"}), "hello").exit_code, 0);
  EXPECT_TRUE(Eventually([&] {
    return Has(Scrape(daemon),
               R"(zerocp_subscriber_fullest_queue_messages{channel="frames",subscriber="0"} 1)");
  }));
  receiver.Signal(SIGCONT);
  EXPECT_TRUE(Eventually([&] { return !receiver.Running(); }));
  ChildProcess killed({.command = daemon.Command({"recv", "frames"})});
  EXPECT_TRUE(
      Eventually([&] { return Has(Scrape(daemon), R"(zerocp_sessions{state="attached"} 1)"); }));
  killed.Signal(SIGKILL);
  EXPECT_TRUE(Eventually([&] { return Has(Scrape(daemon), "zerocp_recovered_sessions_total 1"); }));
  metrics = Scrape(daemon);
  EXPECT_TRUE(Has(metrics, R"(zerocp_events_total{kind="session_died"} 1)")) << metrics;
  EXPECT_TRUE(Has(metrics, R"(zerocp_channel_published_messages_total{channel="frames"} 1)"));
  EXPECT_FALSE(Has(metrics, R"(zerocp_pool_loans_total{pool="video"} 0)")) << metrics;
}

TEST(MetricsTest, EveryCallCountsByMethodAndCodeBeforeItsAnswerIsThere) {
  DaemonProcess daemon({"--pool", "video=4KiBx16", "--metrics-listen", "127.0.0.1:0"});
  for (const char* name : {"pools/video", "pools/none", "pools/none"}) {
    RunCommand({Tool("grpcurl"), "-plaintext", "-unix", "-d",
                std::string(R"({"name":")") + name + R"("})", daemon.socket("client.sock"),
                "zerocp.v1.ObserverService/GetPool"});
  }
  RunCommand({Tool("grpcurl"), "-plaintext", "-unix", "-d", R"({"max_updates":1})",
              daemon.socket("client.sock"), "zerocp.v1.ObserverService/WatchStats"});
  const std::string metrics = Scrape(daemon);
  const std::string of = R"(method="GetPool",service="zerocp.v1.ObserverService")";
  EXPECT_TRUE(Has(metrics, "zerocp_grpc_handled_total{code=\"OK\"," + of + "} 1")) << metrics;
  EXPECT_TRUE(Has(metrics, "zerocp_grpc_handled_total{code=\"NOT_FOUND\"," + of + "} 2"));
  EXPECT_TRUE(Has(metrics, "zerocp_grpc_in_flight{" + of + "} 0"));
  EXPECT_TRUE(Has(metrics, "zerocp_grpc_handling_seconds_count{" + of + "} 3"));
  // A stream lasts as long as its caller wants: that is no latency.
  EXPECT_TRUE(Contains(metrics, R"(zerocp_grpc_handled_total{code="OK",method="WatchStats")"));
  EXPECT_FALSE(Contains(metrics, R"(zerocp_grpc_handling_seconds_count{method="WatchStats")"));
}

TEST(MetricsTest, PromtoolHasNothingAgainstThem) {
  DaemonProcess daemon(
      {"--pool", "video=4KiBx16", "--channel", "frames=video", "--metrics-listen", "0"});
  ChildProcess receiver({.command = daemon.Command({"recv", "frames"})});
  EXPECT_TRUE(Eventually([&] { return Contains(Scrape(daemon), "zerocp_subscriber_held"); }));
  RunCommand({Tool("grpcurl"), "-plaintext", "-unix", daemon.socket("client.sock"),
              "zerocp.v1.ObserverService/GetStats"});
  const Ran checked = RunCommand({Tool("promtool"), "check", "metrics"}, Scrape(daemon));
  EXPECT_EQ(checked.exit_code, 0) << checked.error;
  EXPECT_EQ(checked.output + checked.error, "");
  // It does complain.
  EXPECT_NE(RunCommand({Tool("promtool"), "check", "metrics"},
                       "# HELP a_total b\n# TYPE a_total gauge\na_total 1\n")
                .exit_code,
            0);
}

TEST(MetricsTest, ThereAreNoneUnlessAskedForAndAPortThatIsTakenRefusesTheStart) {
  DaemonProcess without({"--pool", "video=4KiBx16"});
  EXPECT_EQ(AddressOf(without), "");
  DaemonProcess daemon({"--pool", "video=4KiBx16", "--metrics-listen", "0"});
  const std::string address = AddressOf(daemon);
  EXPECT_TRUE(Get(address, "/").starts_with("HTTP/1.0 404") ||
              Get(address, "/").starts_with("HTTP/1.1 404"))
      << Get(address, "/");
  const TempDir dir;
  const Ran second = RunCommand({BinDir() + "/zerocpd", "--runtime-dir", dir.path() + "/run",
                                 "--pool", "p=4KiBx1", "--metrics-listen", address});
  EXPECT_EQ(second.exit_code, 1);
  EXPECT_TRUE(Contains(second.error, address)) << second.error;
  EXPECT_TRUE(Contains(second.error, "Address already in use")) << second.error;
  EXPECT_EQ(daemon.Stop(SIGTERM), 0);
}

}  // namespace
}  // namespace zerocp::testing
