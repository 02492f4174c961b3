#include "proto/config_yaml.h"

#include <google/protobuf/util/message_differencer.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace zerocp {
namespace {

constexpr char kText[] = R"(# a comment
start: {anything: [goes, here]}
pools:
  - name: pools/video
    chunk_size_bytes: 64KiB
    chunk_count: 32
    auto_grow: true
  - {"name": "pools/audio", "chunkSizeBytes": "4096", "chunkCount": 8}
channels:
  - name: channels/frames
    pool: pools/video
    when_full: WHEN_FULL_DROP_OLDEST
    message_type: "acme.Frame/1: #"
)";

TEST(ConfigYaml, YamlAndJsonReachTheirFields) {
  const ParsedConfig parsed = ParseConfig(kText);
  ASSERT_TRUE(parsed.errors.empty()) << parsed.errors[0].line << ": " << parsed.errors[0].text;
  const v1::Config& config = parsed.config;
  ASSERT_EQ(config.pools_size(), 2);
  EXPECT_EQ(config.pools(0).name(), "pools/video");
  EXPECT_EQ(config.pools(0).chunk_size_bytes(), 65536);
  EXPECT_EQ(config.pools(0).chunk_count(), 32);
  EXPECT_TRUE(config.pools(0).auto_grow());
  EXPECT_EQ(config.pools(1).chunk_size_bytes(), 4096);
  ASSERT_EQ(config.channels_size(), 1);
  EXPECT_EQ(config.channels(0).when_full(), v1::Channel::WHEN_FULL_DROP_OLDEST);
  EXPECT_EQ(config.channels(0).message_type(), "acme.Frame/1: #");
  EXPECT_EQ(parsed.LineOf("pools[0].chunk_size_bytes"), 5);
  EXPECT_EQ(parsed.LineOf("pools[1].chunk_count"), 8);
  EXPECT_EQ(parsed.LineOf("pools[1].max_chunk_count"), 8);  // is not there: its pool's
  EXPECT_EQ(parsed.LineOf("pools[7].name"), 3);
  EXPECT_EQ(parsed.LineOf("nothing"), 1);
}

TEST(ConfigYaml, NothingIsAnEmptyConfiguration) {
  for (const char* text : {"", "# only a comment\n", "pools:\nchannels: []\n", "{}"}) {
    const ParsedConfig parsed = ParseConfig(text);
    EXPECT_TRUE(parsed.errors.empty()) << text;
    EXPECT_EQ(parsed.config.ByteSizeLong(), 0u) << text;
  }
}

TEST(ConfigYaml, WhatIsWrongHasItsLineAndPath) {
  const struct {
    const char* text;
    int line;
    const char* error;
  } rows[] = {
      {"pool: []", 1, "pool is unknown; possible are start, pools, channels, etag"},
      {"pools:\n  - name: pools/a\n    size: 4", 3, "pools[0].size is unknown; possible are name"},
      {"pools:\n  - name: pools/a\n    name: pools/b", 3, "pools[0].name is there twice"},
      {"pools:\n  - chunk_count: 1\n    chunkCount: 1", 3, "pools[0].chunkCount is there twice"},
      {"pools: []\nchannels: []\npools: []", 3, "pools is there twice"},
      {"pools: 3", 1, "pools must be a list"},
      {"pools: {name: pools/a}", 1, "pools must be a list"},
      {"pools: [pools/a]", 1, "pools[0] must be keys with values"},
      {"[1, 2]", 1, "the file must be keys with values"},
      {"pools:\n- chunk_count: many", 2, "pools[0].chunk_count is \"many\", which is no integer"},
      {"pools:\n- chunk_count: 4KiB", 2, "pools[0].chunk_count is \"4KiB\", which is no integer"},
      {"pools:\n- chunk_count: 1.5", 2, "which is no integer"},
      {"pools:\n- chunk_count:", 2, "pools[0].chunk_count must be a single value"},
      {"pools:\n- chunk_count: [1]", 2, "pools[0].chunk_count must be a single value"},
      {"pools:\n- chunk_count: 9223372036854775808", 2, "which is no integer"},
      {"pools:\n- max_holders_per_chunk: 2147483648", 2, "is 2147483648, more than 2147483647"},
      {"pools:\n- chunk_size_bytes: 4KB", 2, "is \"4KB\", which is no size"},
      {"pools:\n- chunk_size_bytes: 16777216TiB", 2, "which is no size"},
      {"pools:\n- auto_grow: yes", 2, "pools[0].auto_grow must be true or false"},
      {"channels:\n- when_full: WAIT", 2,
       "is \"WAIT\", which is none of WHEN_FULL_DROP_OLDEST, WHEN_FULL_WAIT"},
      {"pools:\n- create_time: 2026-01-01", 2, "pools[0].create_time is output only"},
      {"pools: [\n", 2, "is not YAML"},
      {"pools: *nobody", 1, "is not YAML"},
      {"? [a]\n: b", 1, "has a key that is no word"},
  };
  for (const auto& row : rows) {
    SCOPED_TRACE(row.text);
    const ParsedConfig parsed = ParseConfig(row.text);
    ASSERT_EQ(parsed.errors.size(), 1u);
    EXPECT_EQ(parsed.errors[0].line, row.line);
    EXPECT_NE(parsed.errors[0].text.find(row.error), std::string::npos) << parsed.errors[0].text;
  }
}

TEST(ConfigYaml, AllErrorsAreFoundInOrder) {
  const ParsedConfig parsed = ParseConfig("poolz: 1\npools:\n- nam: x\n  chunk_count: y\n");
  ASSERT_EQ(parsed.errors.size(), 3u);
  EXPECT_EQ(parsed.errors[0].line, 1);
  EXPECT_EQ(parsed.errors[1].line, 3);
  EXPECT_EQ(parsed.errors[2].line, 4);
}

TEST(ConfigYaml, WhatIsWrittenIsReadAgain) {
  const v1::Config config = ParseConfig(kText).config;
  const ParsedConfig again = ParseConfig(ToYaml(config));
  ASSERT_TRUE(again.errors.empty()) << ToYaml(config);
  EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(again.config, config))
      << ToYaml(config);
  EXPECT_TRUE(ParseConfig(ToYaml({})).errors.empty());
}

TEST(ConfigYaml, AReplacedConfigurationLeavesTheStartSectionAsItIsWritten) {
  v1::Config config;
  config.add_pools()->set_name("pools/a");
  const std::string yaml = ToYaml(config);
  const struct {
    const char* text;
    std::string start;
  } rows[] = {
      {"", ""},
      {"pools: []\n", ""},
      {"# head\nstart:\n  a: 1  # why\n\n  b: [x,\n    y]\n# pools\npools: []\n",
       "# head\nstart:\n  a: 1  # why\n\n  b: [x,\n    y]\n\n"},
      {"pools: []\n# of the start\nstart:\n  a: 1", "# of the start\nstart:\n  a: 1\n\n"},
      {"start:\n  # nothing\npools: []\n", "start:\n  # nothing\n\n"},
      {R"({"pools": [], "start": {"a": "1"}})", "start: {a: 1}\n\n"},
  };
  for (const auto& row : rows) {
    SCOPED_TRACE(row.text);
    const std::string replaced = ReplaceConfig(row.text, config);
    EXPECT_EQ(replaced, row.start + yaml);
    EXPECT_TRUE(ParseConfig(replaced).errors.empty());
  }
}

}  // namespace
}  // namespace zerocp
