// The configuration as a whole over gRPC: what ApplyConfig, ReloadConfig and GetConfig change,
// refuse and tell.
#include <string>
#include <vector>

#include "tests/system/child_process.h"
#include "tests/system/grpc_fixture.h"

namespace zerocp {
namespace {

constexpr char kReloadConfig[] = "zerocp.v1.AdminService/ReloadConfig";
constexpr char kGetConfig[] = "zerocp.v1.ObserverService/GetConfig";

const std::string kVideo = R"({"name":"pools/video","chunkSizeBytes":4096,"chunkCount":16})";
const std::string kFrames =
    R"({"name":"channels/frames","pool":"pools/video","whenFull":"WHEN_FULL_WAIT"})";
const std::string kNew = R"({"name":"pools/new","chunkSizeBytes":64,"chunkCount":8})";

std::string Request(const std::string& pools, const std::string& channels,
                    const std::string& more = "") {
  return R"({"config":{"pools":[)" + pools + R"(],"channels":[)" + channels + "]}" + more + "}";
}

// The value of a string field in the JSON of an outcome, escapes and all.
std::string Field(const std::string& json, const std::string& name) {
  const std::string key = "\"" + name + "\":\"";
  const size_t at = json.find(key);
  if (at == std::string::npos) return {};
  size_t end = at + key.size();
  while (json[end] != '"' || json[end - 1] == '\\') ++end;
  return json.substr(at + key.size(), end - at - key.size());
}

// The object that is the value of the field `name`.
std::string Object(const std::string& json, const std::string& name) {
  const size_t at = json.find("\"" + name + "\":{") + name.size() + 3;
  size_t end = at;
  for (int depth = 0; depth += json[end] == '{' ? 1 : json[end] == '}' ? -1 : 0, depth != 0;) ++end;
  return json.substr(at, end - at + 1);
}

class GrpcConfig : public RpcTest {
 protected:
  std::string Config() { return Object(client.Call(kGetConfig).json, "config"); }
};

TEST_F(GrpcConfig, WhatGetConfigAnswersCanBeAppliedAndChangesNothing) {
  const std::string config = Config();
  EXPECT_TRUE(Contains(config, "\"name\":\"pools/video\"")) << config;
  EXPECT_TRUE(Contains(config, "\"name\":\"channels/frames\"")) << config;
  const Outcome applied = admin.Call(kApplyConfig, R"({"config":)" + config + "}");
  ASSERT_TRUE(applied.ok()) << applied.message;
  EXPECT_TRUE(Contains(applied.json, "\"changes\":[]")) << applied.json;
  EXPECT_EQ(Object(applied.json, "config"), config);
}

TEST_F(GrpcConfig, PoolsAndChannelsBecomeThoseOfTheConfiguration) {
  const std::string grown = R"({"name":"pools/video","chunkSizeBytes":4096,"chunkCount":24})";
  const std::string request =
      Request(grown + "," + kNew,
              R"({"name":"channels/boxes","pool":"pools/new","whenFull":"WHEN_FULL_WAIT"})");
  EXPECT_EQ(admin.Call(kApplyConfig, request).reason(), "DELETION_NOT_ALLOWED");
  EXPECT_FALSE(admin.Call(kGetPool, R"({"name":"pools/new"})").ok());

  std::string allowed = request;
  allowed.insert(allowed.size() - 1, R"(,"allowDeletion":true)");
  std::string preview = allowed;
  preview.insert(preview.size() - 1, R"(,"validateOnly":true)");
  const std::string before = Config();
  const Outcome would = admin.Call(kApplyConfig, preview);
  ASSERT_TRUE(would.ok()) << would.message;
  EXPECT_EQ(Config(), before);

  const Outcome applied = admin.Call(kApplyConfig, allowed);
  ASSERT_TRUE(applied.ok()) << applied.message;
  EXPECT_EQ(Object(applied.json, "config"), Config());
  EXPECT_EQ(applied.json.substr(applied.json.find("\"changes\"")),
            would.json.substr(would.json.find("\"changes\"")));
  EXPECT_TRUE(
      Contains(admin.Call(kGetPool, R"({"name":"pools/video"})").json, "\"chunkCount\":\"24\""));
  EXPECT_TRUE(admin.Call(kGetChannel, R"({"name":"channels/boxes"})").ok());
  EXPECT_EQ(admin.Call(kGetChannel, R"({"name":"channels/frames"})").code, kNotFound);
  const std::string events =
      admin.Call("zerocp.v1.ObserverService/GetConfig").json;   // no file: no drift
  EXPECT_TRUE(Contains(events, "\"drifted\":true")) << events;  // the file is not there
}

TEST_F(GrpcConfig, AnEtagOfAnotherConfigurationIsRefused) {
  const std::string config = Config();
  ASSERT_TRUE(admin.Call(kUpdatePool, R"({"pool":{"name":"pools/video","chunkCount":20}})").ok());
  const Outcome refused = admin.Call(kApplyConfig, R"({"config":)" + config + "}");
  EXPECT_EQ(refused.code, kAborted);
  EXPECT_EQ(refused.reason(), "ETAG_MISMATCH");
  EXPECT_TRUE(admin.Call(kApplyConfig, R"({"config":)" + Config() + "}").ok());
}

TEST_F(GrpcConfig, AReloadAppliesTheFileAndDriftIsShownUntilThen) {
  const Outcome missing = admin.Call(kReloadConfig);
  EXPECT_EQ(missing.reason(), "CONFIG_FILE_UNUSABLE");
  EXPECT_EQ(missing.message, "cannot open zerocp.yaml: No such file or directory");  // no folder
  testing::WriteFile(plane.config_path(), "pools: [" + kVideo + "]\nchannels:\n  - nam: x\n");
  std::string answer = client.Call(kGetConfig).json;
  EXPECT_TRUE(Contains(Field(answer, "fileError"), "zerocp.yaml:3: channels[0].nam is unknown"))
      << answer;

  testing::WriteFile(plane.config_path(),
                     "pools:\n"
                     "  - {name: pools/video, chunk_size_bytes: 4KiB, chunk_count: 4}\n"
                     "  - name: pools/new\n"
                     "    chunk_size_bytes: 1KiB\n"
                     "    chunk_count: 8\n"
                     "channels:\n"
                     "  - {name: channels/frames, pool: pools/video, when_full: WHEN_FULL_WAIT}\n");
  answer = client.Call(kGetConfig).json;
  EXPECT_TRUE(Contains(answer, "\"drifted\":true")) << answer;
  EXPECT_TRUE(Contains(answer, "\"path\":\"pools/new\"")) << answer;
  // More chunks than the minimum are no drift.
  EXPECT_FALSE(Contains(answer, "\"path\":\"pools/video")) << answer;
  const Outcome reloaded = admin.Call(kReloadConfig);
  ASSERT_TRUE(reloaded.ok()) << reloaded.message;
  EXPECT_TRUE(Contains(reloaded.json, "ACTION_KEEP")) << reloaded.json;
  answer = client.Call(kGetConfig).json;
  EXPECT_TRUE(Contains(answer, "\"drifted\":false")) << answer;
  EXPECT_TRUE(Contains(admin.Call(kGetPool, R"({"name":"pools/new"})").json,
                       "\"chunkSizeBytes\":\"1024\""));
}

TEST_F(GrpcConfig, AFileThatCannotBeUsedChangesNothing) {
  const std::string before = Config();
  testing::WriteFile(plane.config_path(), "pools: {\n");
  const Outcome broken = admin.Call(kReloadConfig, R"({"allowDeletion":true})");
  EXPECT_EQ(broken.code, kFailedPrecondition);
  EXPECT_EQ(broken.reason(), "CONFIG_FILE_UNUSABLE");
  EXPECT_EQ(Config(), before);
  // Neither does one that asks for what cannot change: with its line.
  testing::WriteFile(plane.config_path(),
                     "pools:\n"
                     "  - name: pools/video\n"
                     "    chunk_count: 16\n"
                     "    chunk_size_bytes: 8KiB\n");
  const Outcome refused = admin.Call(kReloadConfig, R"({"allowDeletion":true})");
  EXPECT_EQ(refused.reason(), "CONFIG_FILE_UNUSABLE");
  EXPECT_TRUE(Contains(refused.message, "zerocp.yaml:4: pools[0].chunk_size_bytes is immutable"))
      << refused.message;
  EXPECT_EQ(Config(), before);
}

TEST_F(GrpcConfig, PersistWritesTheFileAndKeepsItsStartSection) {
  testing::WriteFile(plane.config_path(),
                     "# mine\n\n# how it starts\nstart:\n  # a comment\n  log-level: debug\n"
                     "\n# pools\npools: []\n");
  const Outcome applied =
      admin.Call(kApplyConfig, Request(kVideo + "," + kNew, kFrames, R"(,"persist":true)"));
  ASSERT_TRUE(applied.ok()) << applied.message;
  const std::string file = testing::ReadFile(plane.config_path());
  EXPECT_TRUE(file.starts_with(
      "# mine\n\n# how it starts\nstart:\n  # a comment\n  log-level: debug\n\npools:\n"))
      << file;
  EXPECT_TRUE(Contains(file, "- name: pools/new\n    chunk_size_bytes: 64\n")) << file;
  const std::string answer = client.Call(kGetConfig).json;
  EXPECT_TRUE(Contains(answer, "\"drifted\":false")) << answer;
  // Where it would lose something it does not write.
  testing::WriteFile(plane.config_path(), "start: {\n");
  const std::string before = Config();
  const Outcome refused =
      admin.Call(kApplyConfig, Request(kVideo, kFrames, R"(,"persist":true,"allowDeletion":true)"));
  EXPECT_EQ(refused.reason(), "CONFIG_FILE_UNUSABLE");
  EXPECT_EQ(Config(), before);
  EXPECT_EQ(testing::ReadFile(plane.config_path()), "start: {\n");
}

}  // namespace
}  // namespace zerocp
