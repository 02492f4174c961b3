// What the command `zerocp` makes of a daemon that sends what it likes: nothing that a terminal
// takes for a command, and no numbers that a screen cannot show.
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "client/cli/output.h"
#include "client/cli/top_screen.h"
#include "tests/system/child_process.h"
#include "zerocp/v1/admin_service.grpc.pb.h"
#include "zerocp/v1/observer_service.grpc.pb.h"

namespace zerocp::testing {
namespace {

// Sets the title, ends the line, and, as one character beyond ASCII, begins a command.
const std::string kForged = "\033]0;forged\a\r\xc2\x9b[2J";

// As a terminal sees it: "" if it is text, else what is not, from there on.
std::string NotText(const std::string& text) {
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const bool is_c1 =
        byte == 0xc2 && i + 1 < text.size() && static_cast<unsigned char>(text[i + 1]) < 0xa0;
    if ((byte < ' ' && byte != '\n') || byte == 0x7f || (byte >= 0x80 && byte < 0xa0) || is_c1)
      return text.substr(i);
  }
  return {};
}

v1::ConfigChange Change() {
  v1::ConfigChange change;
  change.set_action(v1::ConfigChange::ACTION_UPDATE);
  change.set_path(kForged);
  change.set_old_value(kForged);
  change.set_new_value(kForged);
  return change;
}

class Observer final : public v1::ObserverService::Service {
  using Context = grpc::ServerContext;
  grpc::Status GetServerInfo(Context* /*context*/, const v1::GetServerInfoRequest* /*request*/,
                             v1::GetServerInfoResponse* response) override {
    response->set_version(kForged);
    return grpc::Status::OK;
  }
  grpc::Status ListPools(Context* /*context*/, const v1::ListPoolsRequest* /*request*/,
                         v1::ListPoolsResponse* response) override {
    response->add_pools()->set_name(kForged);
    return grpc::Status::OK;
  }
  grpc::Status GetConfig(Context* /*context*/, const v1::GetConfigRequest* /*request*/,
                         v1::GetConfigResponse* response) override {
    response->set_file_error(kForged);
    *response->add_drift() = Change();
    return grpc::Status::OK;
  }
  grpc::Status WatchEvents(Context* /*context*/, const v1::WatchEventsRequest* /*request*/,
                           grpc::ServerWriter<v1::WatchEventsResponse>* writer) override {
    v1::WatchEventsResponse event;
    event.set_sequence(1);
    event.set_resource(kForged);
    event.set_detail(kForged);
    writer->Write(event);
    return grpc::Status::OK;
  }
};

class Admin final : public v1::AdminService::Service {
  using Context = grpc::ServerContext;
  grpc::Status ApplyConfig(Context* /*context*/, const v1::ApplyConfigRequest* /*request*/,
                           v1::ApplyConfigResponse* response) override {
    *response->add_changes() = Change();
    return grpc::Status::OK;
  }
  grpc::Status Audit(Context* /*context*/, const v1::AuditRequest* /*request*/,
                     v1::AuditResponse* /*response*/) override {
    return {grpc::StatusCode::INTERNAL, kForged + "\x9b"};
  }
};

TEST(ForgedAnswers, NothingOfATextIsACommandForTheTerminal) {
  const TempDir dir;
  Observer observer;
  Admin admin;
  grpc::ServerBuilder builder;
  for (const char* name : {"/client.sock", "/admin.sock"})
    builder.AddListeningPort("unix:" + dir.path() + name, grpc::InsecureServerCredentials());
  builder.RegisterService(&observer);
  builder.RegisterService(&admin);
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  ASSERT_NE(server, nullptr);
  WriteFile(dir.path() + "/file", "pools: []\n");
  for (std::vector<std::string> words :
       std::vector<std::vector<std::string>>{{"info"},
                                             {"pools"},
                                             {"audit"},
                                             {"events"},
                                             {"doctor"},
                                             {"doctor", "-o", "yaml"},
                                             {"doctor", "-o", "json"},
                                             {"config", "show"},
                                             {"config", "diff", dir.path() + "/file"},
                                             {"pools", "-o", "json"},
                                             {"pools", "-o", "yaml"},
                                             {"events", "-o", "yaml"}}) {
    const std::string word = words.back();
    words.insert(words.begin(), BinDir() + "/zerocp");
    words.insert(words.end(), {"--runtime-dir", dir.path()});
    const Ran ran = RunCommand(words);
    EXPECT_NE((ran.output + ran.error).find("forged"), std::string::npos) << word;
    EXPECT_EQ(NotText(ran.output), "") << word;
    EXPECT_EQ(NotText(ran.error), "") << word;
  }
}

TEST(ForgedAnswers, APrintableTextIsUtf8WithoutCommands) {
  const std::string text = "caf\u00e9 \u20ac \U0001f600 ~";
  EXPECT_EQ(cli::Printable(text), text);
  EXPECT_EQ(cli::Printable("a\tb\n\x7f"), "a?b??");
  EXPECT_EQ(cli::Printable("\xc2\x80 \xc2\x9f \xc2\xa0"), "?? ?? \xc2\xa0");
  EXPECT_EQ(cli::Printable("\x9b \xc3 \xff \xe2\x82"), "? ? ? ??");
  EXPECT_EQ(cli::Printable("\xc0\x9b \xe0\x82\x9b \xf0\x80\x82\x9b"), "?? ??? ????");  // overlong
  EXPECT_EQ(cli::Printable(""), "");
}

TEST(ForgedAnswers, TopShowsNumbersThatCannotBe) {
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max();
  constexpr int64_t kLeast = std::numeric_limits<int64_t>::min();
  for (const int64_t shared : {kMost, kLeast, int64_t{-1}, int64_t{1000}}) {
    for (const int64_t all : {int64_t{0}, int64_t{8}, kMost, kLeast}) {
      cli::TopView view;
      view.info.set_version(kForged);
      view.trouble = kForged;
      v1::PoolStats* pool = view.now.add_pools();
      pool->set_pool("pools/p");
      pool->set_chunk_count(all);
      pool->set_shared_chunk_count(shared);
      pool->set_writing_chunk_count(shared);
      pool->set_cached_chunk_count(shared);
      pool->set_free_chunk_count(kMost);
      for (const auto& line : cli::TopScreen(view, 80, 24)) {
        EXPECT_LE(line.text.size(), 80u) << shared << " of " << all;
        EXPECT_EQ(NotText(line.text), "") << line.text;
      }
    }
  }
}

}  // namespace
}  // namespace zerocp::testing
