// SetLogLevel of a real daemon: what its log says, and of what.
#include <gtest/gtest.h>

#include <csignal>
#include <string>

#include "tests/system/daemon_process.h"
#include "tests/system/grpc_fixture.h"

namespace zerocp {
namespace {

class LogLevelTest : public ::testing::Test {
 protected:
  // The level before.
  std::string Set(const std::string& request) {
    const Outcome outcome =
        Caller(daemon_.socket("admin.sock")).Call("zerocp.v1.AdminService/SetLogLevel", request);
    EXPECT_EQ(outcome.code, kOk) << outcome.message;
    const size_t begin = outcome.json.find("LOG_LEVEL_");
    return begin == std::string::npos
               ? outcome.json
               : outcome.json.substr(begin, outcome.json.find('"', begin) - begin);
  }
  // Does something that is logged at level info, about the pool with this name.
  void CreatePool(const std::string& name) {
    const Outcome outcome =
        Caller(daemon_.socket("admin.sock"))
            .Call(kCreatePool,
                  R"({"poolId":")" + name + R"(","pool":{"chunkSizeBytes":64,"chunkCount":1}})");
    EXPECT_EQ(outcome.code, kOk) << outcome.message;
  }
  bool Logged(const std::string& text) const { return Contains(daemon_.Log(), text); }

  testing::DaemonProcess daemon_{{"--pool", "first=64x1", "--log-level", "warning"}};
};

TEST_F(LogLevelTest, HoldsAtOnceUntilItIsTakenBackAndIsLogged) {
  CreatePool("unseen");
  EXPECT_EQ(Set(R"({"level":"LOG_LEVEL_INFO"})"), "LOG_LEVEL_WARN");
  EXPECT_TRUE(Logged("log level: info instead of warning")) << daemon_.Log();
  CreatePool("seen");
  EXPECT_EQ(Set("{}"), "LOG_LEVEL_INFO");
  EXPECT_TRUE(Logged("log level: warning instead of info")) << daemon_.Log();
  CreatePool("unseen-again");
  EXPECT_EQ(Set("{}"), "LOG_LEVEL_WARN");
  EXPECT_TRUE(Logged("pool seen created: 1 chunks of 64 bytes")) << daemon_.Log();
  EXPECT_FALSE(Logged("unseen")) << daemon_.Log();
}

TEST_F(LogLevelTest, AStartHasItsOwnLevel) {
  EXPECT_EQ(Set(R"({"level":"LOG_LEVEL_TRACE"})"), "LOG_LEVEL_WARN");
  EXPECT_EQ(Set(R"({"level":"LOG_LEVEL_ERROR"})"), "LOG_LEVEL_TRACE");
  EXPECT_TRUE(Logged("log level: error instead of trace")) << daemon_.Log();
  EXPECT_EQ(Set(R"({"level":"LOG_LEVEL_ERROR"})"), "LOG_LEVEL_ERROR");
  EXPECT_TRUE(Logged("log level: error instead of error")) << daemon_.Log();
  EXPECT_EQ(daemon_.Stop(SIGTERM), 0);
  daemon_.Start();
  EXPECT_EQ(Set("{}"), "LOG_LEVEL_WARN");
}

}  // namespace
}  // namespace zerocp
