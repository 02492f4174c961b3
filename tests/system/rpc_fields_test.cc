// Every field of every request, found in the descriptors: with a value that is wrong for its type
// it is refused by name, or there is a row that says why not. A field that is new and has neither
// fails. And every reason of the error table as it goes over the wire.
#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>
#include <google/protobuf/util/json_util.h>

#include <algorithm>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "server/convert.h"
#include "tests/system/grpc_fixture.h"

namespace zerocp {
namespace {

using google::protobuf::DescriptorPool;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::MethodDescriptor;

constexpr const char* kServices[] = {"zerocp.v1.AdminService", "zerocp.v1.ObserverService",
                                     "zerocp.v1.SessionService"};

// What is right in a request, so that only the field is wrong. Methods without one need nothing.
const std::map<std::string, std::string> kBase = {
    {"CreatePool", R"({"poolId":"new","pool":{"chunkSizeBytes":64,"chunkCount":1},
                       "validateOnly":true})"},
    {"UpdatePool", R"({"pool":{"name":"pools/video"},"validateOnly":true})"},
    {"DeletePool", R"({"name":"pools/spare","validateOnly":true})"},
    {"CreateChannel", R"({"channelId":"new","channel":{"pool":"pools/video","whenFull":2},
                          "validateOnly":true})"},
    {"ApplyConfig", R"({"config":{
         "pools":[{"name":"pools/video","chunkSizeBytes":4096,"chunkCount":16},
                  {"name":"pools/spare","chunkSizeBytes":64,"chunkCount":1}],
         "channels":[{"name":"channels/frames","pool":"pools/video","whenFull":2}]},
         "validateOnly":true})"},
    {"DeleteChannel", R"({"name":"channels/frames"})"},
    {"CreateSession", R"({"layoutVersion":)" + std::to_string(shm::kLayoutVersion) + "}"},
    {"WatchEvents", R"({"stopAtEnd":true})"},
    {"WatchStats", R"({"maxUpdates":1})"},
};

// What a wrong value of a field comes to, where that is not FIELD_INVALID with its path.
const char kIgnored[] = "";  // it is for answers only
const std::map<std::string, const char*> kRows = {
    {"CreatePool.pool.name", kIgnored},
    {"CreatePool.pool.uid", kIgnored},
    {"CreatePool.pool.state", kIgnored},
    {"CreatePool.pool.create_time", kIgnored},
    {"CreatePool.pool.etag", kIgnored},
    {"UpdatePool.pool.uid", kIgnored},
    {"UpdatePool.pool.state", kIgnored},
    {"UpdatePool.pool.create_time", kIgnored},
    {"UpdatePool.pool.etag", "ETAG_MISMATCH"},
    {"DeletePool.etag", "ETAG_MISMATCH"},
    {"CreateChannel.channel.name", kIgnored},
    {"CreateChannel.channel.max_subscriber_count", kIgnored},
    {"CreateChannel.channel.etag", kIgnored},
    {"DeleteChannel.etag", "ETAG_MISMATCH"},
    {"ApplyConfig.config.pools.uid", kIgnored},
    {"ApplyConfig.config.pools.state", kIgnored},
    {"ApplyConfig.config.pools.create_time", kIgnored},
    {"ApplyConfig.config.pools.etag", kIgnored},
    {"ApplyConfig.config.channels.max_subscriber_count", kIgnored},
    {"ApplyConfig.config.channels.etag", kIgnored},
    {"ApplyConfig.config.etag", "ETAG_MISMATCH"},
    {"ListChannels.page_token", "PAGE_TOKEN_INVALID"},
    {"ListSessions.page_token", "PAGE_TOKEN_INVALID"},
    {"ListHeldChunks.page_token", "PAGE_TOKEN_INVALID"},
};

std::unique_ptr<Message> NewMessage(const google::protobuf::Descriptor* type) {
  return std::unique_ptr<Message>(
      google::protobuf::MessageFactory::generated_factory()->GetPrototype(type)->New());
}

// Gives `field` a value that is wrong for a field of its type; false: every value is right.
bool SetWrong(Message& message, const FieldDescriptor& field) {
  const google::protobuf::Reflection& fields = *message.GetReflection();
  const bool many = field.is_repeated();
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_BOOL:
      return false;
    case FieldDescriptor::CPPTYPE_INT32:
      fields.SetInt32(&message, &field, -1);
      return true;
    case FieldDescriptor::CPPTYPE_INT64:
      fields.SetInt64(&message, &field, -1);
      return true;
    case FieldDescriptor::CPPTYPE_ENUM:
      many ? fields.AddEnumValue(&message, &field, 99) : fields.SetEnumValue(&message, &field, 99);
      return true;
    case FieldDescriptor::CPPTYPE_STRING:
      many ? fields.AddString(&message, &field, "!\n") : fields.SetString(&message, &field, "!\n");
      return true;
    case FieldDescriptor::CPPTYPE_MESSAGE: {
      Message& part = *fields.MutableMessage(&message, &field);
      return SetWrong(part, *part.GetDescriptor()->field(0));  // Duration, Timestamp, FieldMask
    }
    default:
      ADD_FAILURE() << field.full_name() << ": what is wrong for its type?";
      return false;
  }
}

struct FieldCase {
  std::string row;   // "CreatePool.pool.uid"
  std::string path;  // "pool.uid", as a BadRequest names it
  std::string request;
};

// The cases of all fields of `message`, which is part of `whole`.
void AddCases(const std::string& method, const std::string& prefix, const Message& whole,
              Message& message, std::vector<FieldCase>* cases) {
  const google::protobuf::Descriptor& type = *message.GetDescriptor();
  for (int i = 0; i < type.field_count(); ++i) {
    const FieldDescriptor& field = *type.field(i);
    const std::string path = prefix + field.name();
    const bool ours = field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE &&
                      field.message_type()->file()->package() == "zerocp.v1";
    if (ours) {
      const google::protobuf::Reflection& fields = *message.GetReflection();
      Message& part = field.is_repeated() ? *fields.MutableRepeatedMessage(&message, &field, 0)
                                          : *fields.MutableMessage(&message, &field);
      AddCases(method, path + (field.is_repeated() ? "[0]." : "."), whole, part, cases);
      continue;
    }
    const std::unique_ptr<Message> saved(message.New());
    saved->CopyFrom(message);
    if (SetWrong(message, field)) {
      std::string row = method + "." + path;
      while (row.find("[0]") != std::string::npos) row.erase(row.find("[0]"), 3);
      cases->push_back({row, field.is_repeated() ? path + "[0]" : path, whole.SerializeAsString()});
    }
    message.CopyFrom(*saved);
  }
}

std::vector<FieldCase> CasesOf(const MethodDescriptor& method) {
  const std::unique_ptr<Message> request = NewMessage(method.input_type());
  const auto base = kBase.find(method.name());
  if (base != kBase.end()) {
    EXPECT_TRUE(google::protobuf::util::JsonStringToMessage(base->second, request.get()).ok());
  }
  std::vector<FieldCase> cases;
  AddCases(method.name(), "", *request, *request, &cases);
  return cases;
}

class RpcFields : public RpcTest {
 protected:
  void SetUp() override {
    RpcTest::SetUp();
    ASSERT_TRUE(plane.instance.pools.Create(Spec("spare", 64, 1)).ok());
  }
  // Each case on a listener that serves the method.
  void Check(const Caller& caller, const std::string& method, const FieldCase& one,
             std::set<std::string>* used) {
    const Outcome outcome = caller.CallBytes(method, one.request);
    const auto row = kRows.find(one.row);
    const std::string reason = row == kRows.end() ? "FIELD_INVALID" : row->second;
    if (row != kRows.end()) used->insert(one.row);
    EXPECT_EQ(outcome.reason(), reason) << outcome.message;
    if (reason.empty()) {
      EXPECT_TRUE(outcome.ok()) << outcome.message;
    } else if (reason != "ETAG_MISMATCH") {
      EXPECT_EQ(outcome.code, kInvalidArgument) << outcome.message;
      EXPECT_EQ(outcome.fields, std::vector<std::string>{one.path}) << outcome.message;
    } else {
      EXPECT_EQ(outcome.code, kAborted) << outcome.message;
    }
  }
};

TEST_F(RpcFields, EveryFieldOfEveryRequestIsCheckedOnEveryListener) {
  std::set<std::string> used;
  size_t count = 0;
  for (const char* name : kServices) {
    const auto* service = DescriptorPool::generated_pool()->FindServiceByName(name);
    ASSERT_NE(service, nullptr) << name;
    const bool admin_only = service->name() == "AdminService";
    for (int i = 0; i < service->method_count(); ++i) {
      const std::string method = std::string(name) + "/" + service->method(i)->name();
      for (const FieldCase& one : CasesOf(*service->method(i))) {
        SCOPED_TRACE(one.row);
        ++count;
        Check(admin, method, one, &used);
        if (admin_only) {
          EXPECT_EQ(client.CallBytes(method, one.request).code, kUnimplemented);
        } else {
          Check(client, method, one, &used);
        }
      }
    }
  }
  EXPECT_GT(count, 40u);
  for (const auto& [row, reason] : kRows) EXPECT_EQ(used.count(row), 1u) << row << " is no field";
  ExpectAlive();
  EXPECT_EQ(plane.instance.pools.List().size(), 2u);
  EXPECT_EQ(plane.instance.channels.List().size(), 1u);
}

TEST_F(RpcFields, EveryReasonGoesOverTheWireWithItsCodeAndDetails) {
  const std::string json = kBase.at("CreateSession");
  std::set<std::string> names;
  for (int i = 0; i <= static_cast<int>(Reason::kInternal); ++i) {
    const auto reason = static_cast<Reason>(i);
    SCOPED_TRACE(std::string(ReasonName(reason)));
    const absl::Status made = MakeError(reason, "what happened", {{"resource", "pools/video"}});
    plane.sessions.before_create = [&] { return made; };
    const Outcome outcome = client.Call(kCreateSession, json);
    EXPECT_EQ(outcome.code, static_cast<int>(made.code()));
    EXPECT_EQ(outcome.reason(), ReasonName(reason));
    EXPECT_EQ(outcome.info.domain(), "zerocp");
    // Of a bug the caller learns a number that is in the log.
    if (reason != Reason::kInternal) {
      EXPECT_EQ(outcome.info.metadata().at("resource"), "pools/video");
    }
    EXPECT_TRUE(names.insert(outcome.reason()).second);
  }
}

}  // namespace
}  // namespace zerocp
