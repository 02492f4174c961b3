// Every malformed request gets its code, its reason and the paths of its bad fields, and the server
// goes on.
#include <sys/socket.h>
#include <sys/un.h>

#include <string>
#include <utility>
#include <vector>

#include "shm/chunk_ops.h"
#include "tests/system/grpc_fixture.h"

namespace zerocp {
namespace {

using RpcErrors = RpcTest;

struct Row {
  std::string json;
  std::vector<std::string> fields;
  int code = kInvalidArgument;
  const char* reason = "FIELD_INVALID";
};

const std::string kLong(64, 'a');
const std::string kHuge(100'000, 'a');

// `fields` beside what a pool needs.
std::string Pool(const std::string& fields) {
  return R"({"poolId":"new","pool":{"chunkSizeBytes":4096,"chunkCount":8,)" + fields + "}}";
}

std::string Channel(const std::string& fields) {
  return R"({"channelId":"new","channel":{"pool":"pools/video","whenFull":2)" + fields + "}}";
}

std::vector<Row> CreatePoolRows() {
  std::vector<Row> rows = {
      {"{}", {"pool_id", "pool.chunk_size_bytes", "pool.chunk_count"}},
      {R"({"poolId":"new"})", {"pool.chunk_size_bytes", "pool.chunk_count"}},
      {Pool(R"("maxHoldersPerChunk":11)"), {"pool.max_holders_per_chunk"}},
      {Pool(R"("maxHoldersPerChunk":1017)"), {"pool.max_holders_per_chunk"}},
      {Pool(R"("maxHoldersPerChunk":-1)"), {"pool.max_holders_per_chunk"}},
      {Pool(R"("chunkAlignmentBytes":63)"), {"pool.chunk_alignment_bytes"}},
      {Pool(R"("chunkAlignmentBytes":96)"), {"pool.chunk_alignment_bytes"}},
      {Pool(R"("chunkAlignmentBytes":4194304)"), {"pool.chunk_alignment_bytes"}},
      {Pool(R"("chunkAlignmentBytes":-64)"), {"pool.chunk_alignment_bytes"}},
      {Pool(R"("maxChunkCount":7)"), {"pool.max_chunk_count"}},
      {Pool(R"("maxChunkCount":-7)"), {"pool.max_chunk_count"}},
      {Pool(R"("maxChunkCount":"9223372036854775807")"), {"pool.max_chunk_count"}},
      {R"({"poolId":"-","pool":{"chunkSizeBytes":"-1","chunkAlignmentBytes":3,
           "chunkCount":"99999999999","maxChunkCount":"-9223372036854775808",
           "maxHoldersPerChunk":2147483647}})",
       {"pool.chunk_size_bytes", "pool.max_chunk_count", "pool.chunk_count", "pool_id",
        "pool.chunk_alignment_bytes", "pool.max_holders_per_chunk"}},
      {R"({"poolId":"video","pool":{"chunkSizeBytes":4096,"chunkCount":16}})",
       {},
       kAlreadyExists,
       "POOL_ALREADY_EXISTS"},
      {R"({"poolId":"video","pool":{"chunkSizeBytes":64,"chunkCount":16},"allowExisting":true})",
       {},
       kAlreadyExists,
       "POOL_ALREADY_EXISTS"},
      {R"({"poolId":"new","pool":{"chunkSizeBytes":"4294967296","chunkCount":1024}})",
       {},
       kResourceExhausted,
       "SEGMENT_FULL"},
  };
  for (const std::string& name :
       {std::string(""), std::string("Video"), std::string("-a"), std::string("a-"),
        std::string("1a"), std::string("a_b"), std::string("a/b"), std::string("ä"),
        std::string("."), kLong, kHuge}) {
    rows.push_back({R"({"poolId":")" + name + R"(","pool":{"chunkSizeBytes":64,"chunkCount":1}})",
                    {"pool_id"}});
  }
  for (const std::string size : {"0", "63", "-64", "4294967297", "9223372036854775807"}) {
    rows.push_back({R"({"poolId":"new","pool":{"chunkCount":1,"chunkSizeBytes":")" + size + "\"}}",
                    {"pool.chunk_size_bytes"}});
  }
  for (const std::string count : {"0", "-1", "16777217", "4294967297", "9223372036854775807"}) {
    rows.push_back(
        {R"({"poolId":"new","pool":{"chunkSizeBytes":64,"chunkCount":")" + count + "\"}}",
         {"pool.chunk_count"}});
  }
  return rows;
}

std::vector<Row> CreateChannelRows() {
  return {
      {"{}", {"channel.pool", "channel.when_full", "channel_id"}},
      {R"({"channelId":"new","channel":{"pool":"pools/video"}})", {"channel.when_full"}},
      {R"({"channelId":"new","channel":{"pool":"pools/video","whenFull":3}})",
       {"channel.when_full"}},
      {R"({"channelId":"new","channel":{"pool":"pools/video","whenFull":-3}})",
       {"channel.when_full"}},
      {Channel(R"(,"queueCapacity":65537)"), {"channel.queue_capacity"}},
      {Channel(R"(,"queueCapacity":-1)"), {"channel.queue_capacity"}},
      {Channel(R"(,"maxHeldCount":-1)"), {"channel.max_held_count"}},
      {Channel(R"(,"historyCount":-1)"), {"channel.history_count"}},
      {Channel(R"(,"historyCount":17)"), {"channel.history_count"}},
      {Channel(R"(,"maxHeldCount":16777217)"), {"channel.max_held_count"}},
      {Channel(R"(,"messageType":")" + std::string(129, 't') + "\""), {"channel.message_type"}},
      {Channel(R"(,"messageType":"a\nb")"), {"channel.message_type"}},
      {Channel(R"(,"messageType":"a\u0000b")"), {"channel.message_type"}},
      {R"({"channelId":"A","channel":{"pool":"video","queueCapacity":-1,"messageType":"\t"}})",
       {"channel.pool", "channel.when_full", "channel.queue_capacity", "channel.message_type",
        "channel_id"}},
      {R"({"channelId":"new","channel":{"pool":"pools/none","whenFull":2}})",
       {},
       kNotFound,
       "POOL_NOT_FOUND"},
      {R"({"channelId":"frames","channel":{"pool":"pools/video","whenFull":2}})",
       {},
       kAlreadyExists,
       "CHANNEL_ALREADY_EXISTS"},
      {R"({"channelId":"frames","channel":{"pool":"pools/video","whenFull":2,"queueCapacity":64},
           "allowExisting":true})",
       {},
       kAlreadyExists,
       "CHANNEL_ALREADY_EXISTS"},
  };
}

const char kBadToken[] = "PAGE_TOKEN_INVALID";
const char kTokenOfSessions[] = R"({"pageToken":"c2Vzc2lvbnM6eA"})";  // sessions:x
const char kTokenOfChannels[] = R"({"pageToken":"Y2hhbm5lbHM6eA"})";  // channels:x

const std::pair<const char*, std::vector<Row>> kTables[] = {
    {kCreatePool, CreatePoolRows()},
    {kCreateChannel, CreateChannelRows()},
    {kGetPool,
     {{"{}", {"name"}},
      {R"({"name":"video"})", {"name"}},
      {R"({"name":"channels/video"})", {"name"}},
      {R"({"name":"pools/"})", {"name"}},
      {R"({"name":"pools/../video"})", {"name"}},
      {R"({"name":")" + kHuge + R"("})", {"name"}},
      {R"({"name":"pools/none"})", {}, kNotFound, "POOL_NOT_FOUND"}}},
    {kGetChannel,
     {{R"({"name":"pools/frames"})", {"name"}},
      {R"({"name":"channels/none"})", {}, kNotFound, "CHANNEL_NOT_FOUND"}}},
    {kDeleteChannel,
     {{"{}", {"name"}},
      {R"({"name":"pools/frames","evenIfInUse":true})", {"name"}},
      {R"({"name":"channels/frames","etag":"\"x\""})", {}, kAborted, "ETAG_MISMATCH"},
      {R"({"name":"channels/none"})", {}, kNotFound, "CHANNEL_NOT_FOUND"}}},
    {kDeletePool,
     {{"{}", {"name"}},
      {R"({"name":"channels/video"})", {"name"}},
      {R"({"name":"pools/video","etag":"\"x\""})", {}, kAborted, "ETAG_MISMATCH"},
      {R"({"name":"pools/video"})", {}, kFailedPrecondition, "POOL_IN_USE"},
      {R"({"name":"pools/video","drain":true})", {}, kFailedPrecondition, "POOL_IN_USE"},
      {R"({"name":"pools/none"})", {}, kNotFound, "POOL_NOT_FOUND"}}},
    {"zerocp.v1.AdminService/Cleanup",
     {{R"({"kinds":[1,0,2,3,-1]})", {"kinds[1]", "kinds[3]", "kinds[4]"}}}},
    {"zerocp.v1.AdminService/DetachSubscriber",
     {{"{}", {"name"}},
      {R"({"name":"channels/frames"})", {"name"}},
      {R"({"name":"channels/frames/subscribers/"})", {"name"}},
      {R"({"name":"channels/frames/subscribers/-"})", {"name"}},
      {R"({"name":"channels/frames/subscribers/0"})", {"name"}},
      {R"({"name":"channels/a-b/subscribers/0"})", {"name"}},
      {R"({"name":"channels/frames/subscribers/0-1x"})", {"name"}},
      {R"({"name":"channels/frames/subscribers/0-99999999999"})", {"name"}},
      {R"({"name":"channels/F/subscribers/0-1"})", {"name"}},
      {R"({"name":"channels/frames/subscribers/0-1"})", {}, kNotFound, "SUBSCRIBER_NOT_FOUND"},
      {R"({"name":"channels/none/subscribers/0-1"})", {}, kNotFound, "SUBSCRIBER_NOT_FOUND"}}},
    {"zerocp.v1.AdminService/SetLogLevel",
     {{R"({"level":6})", {"level"}}, {R"({"level":-1})", {"level"}}}},
    {kGetStats,
     {{R"({"pools":["video","pools/video","pools/V"]})", {"pools[0]", "pools[2]"}},
      {R"({"pools":["pools/video","pools/none"]})", {}, kNotFound, "POOL_NOT_FOUND"}}},
    {"zerocp.v1.ObserverService/WatchEvents", {{R"({"afterSequence":-1})", {"after_sequence"}}}},
    {"zerocp.v1.ObserverService/WatchStats",
     {{R"({"interval":"0s"})", {"interval"}},
      {R"({"interval":"0.099999999s"})", {"interval"}},
      {R"({"interval":"3600.000000001s"})", {"interval"}},
      {R"({"interval":"315576000000s"})", {"interval"}},
      {R"({"interval":"-1s","maxUpdates":-1,"pools":["pools/video","video"]})",
       {"pools[1]", "interval", "max_updates"}},
      {R"({"pools":["pools/video","pools/none"]})", {}, kNotFound, "POOL_NOT_FOUND"}}},
    {kUpdatePool,
     {{"{}", {"pool.name"}},
      {R"({"pool":{"name":"video","chunkCount":-1}})", {"pool.name", "pool.chunk_count"}},
      {R"({"pool":{"name":"pools/video"},"updateMask":"chunkCount,chunkSizeBytes"})",
       {"update_mask", "pool.chunk_count"}},
      {R"({"pool":{"name":"pools/video"},"updateMask":"*"})", {"pool.chunk_count"}},
      {R"({"pool":{"name":"pools/video","chunkCount":16777216}})", {"pool.chunk_count"}},
      {R"({"pool":{"name":"pools/video","maxChunkCount":2}})", {"pool.max_chunk_count"}},
      {R"({"pool":{"name":"pools/video","maxChunkCount":-2}})", {"pool.max_chunk_count"}},
      {R"({"pool":{"name":"pools/video","chunkSizeBytes":64,"chunkAlignmentBytes":128,
           "chunkCount":17,"maxHoldersPerChunk":25}})",
       {"pool.chunk_size_bytes", "pool.chunk_alignment_bytes", "pool.max_holders_per_chunk"}},
      {R"({"pool":{"name":"pools/none","chunkCount":1}})", {}, kNotFound, "POOL_NOT_FOUND"},
      {R"({"pool":{"name":"pools/video","chunkCount":1}})",
       {},
       kFailedPrecondition,
       "POOL_SHRINK_UNSUPPORTED"},
      {R"({"pool":{"name":"pools/video","etag":"\"x\""}})", {}, kAborted, "ETAG_MISMATCH"}}},
    {kApplyConfig,
     {{"{}", {"config"}},
      {R"({"config":{"pools":[{}],"channels":[{}]}})",
       {"config.pools[0].name", "config.pools[0].chunk_size_bytes", "config.pools[0].chunk_count",
        "config.channels[0].name", "config.channels[0].pool", "config.channels[0].when_full"}},
      {R"({"config":{"pools":[{"name":"pools/video","chunkSizeBytes":64,"chunkCount":8},
                              {"name":"pools/b","chunkSizeBytes":64,"chunkCount":8},
                              {"name":"pools/b","chunkSizeBytes":64,"chunkCount":8}],
                     "channels":[{"name":"channels/c","pool":"pools/none","whenFull":2}]}})",
       {"config.pools[2].name", "config.pools[0].chunk_size_bytes", "config.channels[0].pool"}},
      {R"({"config":{"pools":[{"name":"pools/video","chunkSizeBytes":4096,"chunkCount":"-1"}]}})",
       {"config.pools[0].chunk_count"}},
      {R"({"config":{}})", {}, kFailedPrecondition, "DELETION_NOT_ALLOWED"},
      {R"({"config":{"etag":"\"x\""}})", {}, kAborted, "ETAG_MISMATCH"}}},
    {"zerocp.v1.AdminService/ReloadConfig",
     {{"{}", {}, kFailedPrecondition, "CONFIG_FILE_UNUSABLE"}}},
    {kListChannels,
     {{R"({"pageSize":-1})", {"page_size"}},
      {R"({"pageSize":-2147483648,"pageToken":"x"})", {"page_size", "page_token"}},
      {R"({"pageToken":"frames"})", {"page_token"}, kInvalidArgument, kBadToken},
      {R"({"pageToken":"***"})", {"page_token"}, kInvalidArgument, kBadToken},
      {kTokenOfSessions, {"page_token"}, kInvalidArgument, kBadToken}}},
    {kListSessions,
     {{R"({"pageSize":-1})", {"page_size"}},
      {kTokenOfChannels, {"page_token"}, kInvalidArgument, kBadToken}}},
    {kCreateSession,
     {{"{}", {"layout_version"}},
      {R"({"layoutVersion":-1,"peerUserId":-1,"clientName":")" + kLong + R"("})",
       {"client_name", "layout_version", "peer_user_id"}},
      {R"({"layoutVersion":2,"clientName":"a\u001b[31m"})", {"client_name"}},
      {R"({"layoutVersion":2,"peerUserId":"4294967295"})", {"peer_user_id"}},
      {R"({"layoutVersion":4711})", {}, kFailedPrecondition, "LAYOUT_VERSION_MISMATCH"}}},
};

TEST_F(RpcErrors, EveryMalformedRequestGetsItsCodeReasonAndFields) {
  for (const auto& [method, rows] : kTables) {
    for (const Row& row : rows) {
      SCOPED_TRACE(std::string(method) + " " + row.json.substr(0, 300));
      const Outcome outcome = admin.Call(method, row.json);
      EXPECT_EQ(outcome.code, row.code) << outcome.message;
      EXPECT_EQ(outcome.reason(), row.reason);
      EXPECT_EQ(outcome.info.domain(), "zerocp");
      EXPECT_EQ(outcome.fields, row.fields) << outcome.message;
      EXPECT_LE(outcome.message.size(), kMaxMessageBytes);
      for (const std::string& field : row.fields) {
        EXPECT_TRUE(Contains(outcome.message, field)) << outcome.message;
      }
      ExpectAlive();
    }
  }
  // None of them changed anything.
  EXPECT_EQ(plane.instance.pools.List().size(), 1u);
  EXPECT_EQ(plane.instance.channels.List().size(), 1u);
  EXPECT_TRUE(plane.sessions.List().empty());
}

TEST_F(RpcErrors, NamesAndNumbersAreInTheMetadata) {
  const Outcome missing = admin.Call(kGetPool, R"({"name":"pools/none"})");
  EXPECT_EQ(missing.info.metadata().at("resource"), "pools/none");
  EXPECT_EQ(missing.details_size, 3);
  const Outcome version = client.Call(kCreateSession, R"({"layoutVersion":4711})");
  EXPECT_EQ(version.info.metadata().at("client"), "4711");
  EXPECT_EQ(version.info.metadata().at("server"), std::to_string(shm::kLayoutVersion));
  const Outcome full = admin.Call(
      kCreatePool, R"({"poolId":"new","pool":{"chunkSizeBytes":"4294967296","chunkCount":1024}})");
  EXPECT_GT(std::stoull(full.info.metadata().at("requestedBytes")),
            std::stoull(full.info.metadata().at("availableBytes")));
}

TEST_F(RpcErrors, BytesThatAreNoMessageAreRefused) {
  for (const std::string& bytes :
       {std::string("\xff\xff\xff\xff\xff"), std::string("\x0a\x7f"), std::string("\x12\x02\x18"),
        std::string("\x0a\x02\xff\xfe") /* a string that is not UTF-8 */}) {
    const Outcome outcome = admin.CallBytes(kCreatePool, bytes);
    EXPECT_EQ(outcome.code, kInvalidArgument) << outcome.message;
    EXPECT_EQ(outcome.reason(), "FIELD_INVALID");
    EXPECT_EQ(outcome.fields, std::vector<std::string>{"request"});
    ExpectAlive();
  }
  EXPECT_EQ(admin.CallBytes(kListPools, std::string("\xf8\x07\x01", 3)).code,
            kOk);  // an unknown field
}

TEST_F(RpcErrors, RequestsBeyondTheLimitAreRefused) {
  const Outcome outcome = admin.CallBytes(kCreatePool, std::string(2 << 20, '\0'));
  EXPECT_EQ(outcome.code, kResourceExhausted) << outcome.message;
  ExpectAlive();
}

TEST_F(RpcErrors, UnknownMethodsAreUnimplemented) {
  for (const char* method :
       {"zerocp.v1.AdminService/DeleteEverything", "zerocp.v2.AdminService/CreatePool", "x", "/"}) {
    EXPECT_EQ(admin.CallBytes(method, "").code, kUnimplemented) << method;
  }
  ExpectAlive();
}

TEST_F(RpcErrors, GarbageOnTheSocketHarmsNobody) {
  const std::string garbage[] = {
      "", "GET / HTTP/1.1\r\n\r\n", std::string(100'000, '\xff'),
      std::string("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff")};
  for (const std::string& bytes : garbage) {
    shm::UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    plane.client_socket().copy(address.sun_path, sizeof(address.sun_path) - 1);
    ASSERT_EQ(connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    (void)!send(fd.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    fd.Reset();
    ExpectAlive();
  }
}

// What a single request cannot provoke in an instance that has one pool and one channel.
TEST_F(RpcErrors, LimitsAndStatesHaveTheirReasons) {
  const std::string one_chunk = R"(,"pool":{"chunkSizeBytes":64,"chunkCount":1}})";
  const auto create_pool = [&](const std::string& id) {
    return admin.Call(kCreatePool, R"({"poolId":")" + id + "\"" + one_chunk);
  };
  for (uint32_t i = 1; i < shm::kMaxPools; ++i)
    EXPECT_TRUE(create_pool("p" + std::to_string(i)).ok());
  const Outcome pools = create_pool("one-more");
  EXPECT_EQ(pools.code, kResourceExhausted);
  EXPECT_EQ(pools.reason(), "POOL_LIMIT");
  EXPECT_EQ(pools.info.metadata().at("limit"), std::to_string(shm::kMaxPools));

  const auto create_channel = [&](const std::string& id) {
    return admin.Call(kCreateChannel, R"({"channelId":")" + id +
                                          R"(","channel":{"pool":"pools/p1","whenFull":2}})");
  };
  for (uint32_t i = 1; i < shm::kMaxChannels; ++i)
    EXPECT_TRUE(create_channel("c" + std::to_string(i)).ok());
  const Outcome channels = create_channel("one-more");
  EXPECT_EQ(channels.code, kResourceExhausted);
  EXPECT_EQ(channels.reason(), "CHANNEL_LIMIT");
  EXPECT_EQ(channels.info.metadata().at("limit"), std::to_string(shm::kMaxChannels));

  shm::ChunkManager& record = plane.instance.core.manager->FindPool("video")->record(3);
  {
    MutexLock lock(plane.instance.core.mutex);
    plane.instance.core.attached.set(2);
    ASSERT_TRUE(plane.instance.core.registry.JoinAsSubscriber("frames", "", 2).ok());
  }
  ASSERT_TRUE(shm::TakeFree(record, 2));
  const Outcome in_use = admin.Call(kDeleteChannel, R"({"name":"channels/frames"})");
  EXPECT_EQ(in_use.code, kFailedPrecondition);
  EXPECT_EQ(in_use.reason(), "CHANNEL_IN_USE");
  EXPECT_EQ(in_use.info.metadata().at("resource"), "channels/frames");
  EXPECT_TRUE(admin.Call(kDeleteChannel, R"({"name":"channels/frames","evenIfInUse":true})").ok());
  EXPECT_TRUE(admin.Call(kDeletePool, R"({"name":"pools/video","drain":true})").ok());
  const Outcome draining =
      admin.Call(kUpdatePool, R"({"pool":{"name":"pools/video","chunkCount":17}})");
  EXPECT_EQ(draining.code, kFailedPrecondition);
  EXPECT_EQ(draining.reason(), "POOL_DRAINING");
  EXPECT_EQ(draining.info.metadata().at("resource"), "pools/video");
  ExpectAlive();
}

TEST_F(RpcErrors, ForeignErrorsBecomeInternalWithANumber) {
  plane.sessions.before_create = [] { return absl::UnknownError("the secret"); };
  const Outcome outcome = client.Call(kCreateSession, R"({"layoutVersion":2})");
  EXPECT_EQ(outcome.code, kInternal);
  EXPECT_EQ(outcome.reason(), "INTERNAL");
  EXPECT_FALSE(Contains(outcome.message, "secret"));
  plane.sessions.before_create = [] { return MakeError(Reason::kSessionLimit, "full"); };
  EXPECT_EQ(client.Call(kCreateSession, R"({"layoutVersion":2})").reason(), "SESSION_LIMIT");
  ExpectAlive();
}

}  // namespace
}  // namespace zerocp
