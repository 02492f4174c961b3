// Requests made from the descriptors: right ones, ones with a field of any value, and ones of
// mutated bytes, to every RPC of a daemon. It answers each in time, as it should, and ends in order
// with the descriptors that it began with; under the address sanitizer also without a leak.
// $ZEROCP_FUZZ_SECONDS says how long at least (4 unless it is set); it goes on until each RPC has
// answered OK 100 times. $ZEROCP_FUZZ_SEED is the first number of the random ones.
#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>
#include <google/protobuf/util/json_util.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <zerocp/zerocp.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "tests/system/daemon_process.h"
#include "zerocp/v1/admin_service.grpc.pb.h"
#include "zerocp/v1/observer_service.grpc.pb.h"
#include "zerocp/v1/session_service.grpc.pb.h"

namespace zerocp {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::MethodDescriptor;
using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;
using Random = std::mt19937_64;

constexpr int kWantedOk = 100;
constexpr std::chrono::seconds kUnaryDeadline{30};
constexpr milliseconds kStreamDeadline{200};  // of one that does not end by itself
constexpr std::chrono::minutes kWatchdog{4};

constexpr char kConfig[] = R"(pools:
- {name: pools/keep, chunk_size_bytes: 64, chunk_count: 16, max_chunk_count: 64}
channels:
- {name: channels/keep, pool: pools/keep, when_full: WHEN_FULL_DROP_OLDEST, queue_capacity: 4}
)";

bool Coin(Random& random) { return random() % 2 == 0; }

// Sets one field of `message`, or of a message in it, to something.
class FieldMutator {
 public:
  explicit FieldMutator(Random& random) : random_(random) {}

  void Mutate(Message& message) {
    const auto* type = message.GetDescriptor();
    if (type->field_count() == 0) return;
    const FieldDescriptor* field =
        type->field(static_cast<int>(random_() % static_cast<uint64_t>(type->field_count())));
    if (field->is_repeated()) {
      for (uint64_t i = random_() % 8; i > 0; --i) Add(message, field);
    } else if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
      if (random_() % 8 == 0) return message.GetReflection()->ClearField(&message, field);
      Mutate(*message.GetReflection()->MutableMessage(&message, field));
    } else {
      Set(message, field);
    }
  }

 private:
  int64_t Number() {
    constexpr int64_t kSpecial[] = {0,    1,         -1,        15,        64,
                                    4096, INT32_MAX, INT32_MIN, INT64_MAX, INT64_MIN};
    return Coin(random_) ? kSpecial[random_() % std::size(kSpecial)]
                         : static_cast<int64_t>(random_());
  }
  std::string Text() {
    switch (random_() % 8) {
      case 0:
        return "";
      case 1:
        return "pools/keep";
      case 2:
        return "channels/keep/subscribers/0-1";
      case 3:
        return std::string(random_() % 5000, 'a');
      case 4:
        return std::string("pools/\0x", 8);
      case 5:
        return "../../etc/passwd";
      case 6:
        return "sessions/\u00e4%s%n";
      default:
        return std::to_string(random_());
    }
  }
  void Set(Message& message, const FieldDescriptor* field) {
    const auto* reflection = message.GetReflection();
    switch (field->cpp_type()) {
      case FieldDescriptor::CPPTYPE_INT32:
        return reflection->SetInt32(&message, field, static_cast<int32_t>(Number()));
      case FieldDescriptor::CPPTYPE_INT64:
        return reflection->SetInt64(&message, field, Number());
      case FieldDescriptor::CPPTYPE_UINT32:
        return reflection->SetUInt32(&message, field, static_cast<uint32_t>(Number()));
      case FieldDescriptor::CPPTYPE_UINT64:
        return reflection->SetUInt64(&message, field, static_cast<uint64_t>(Number()));
      case FieldDescriptor::CPPTYPE_DOUBLE:
        return reflection->SetDouble(&message, field, static_cast<double>(Number()));
      case FieldDescriptor::CPPTYPE_FLOAT:
        return reflection->SetFloat(&message, field, static_cast<float>(Number()));
      case FieldDescriptor::CPPTYPE_BOOL:
        return reflection->SetBool(&message, field, Coin(random_));
      case FieldDescriptor::CPPTYPE_ENUM:
        return reflection->SetEnumValue(&message, field, static_cast<int>(Number()));
      case FieldDescriptor::CPPTYPE_STRING:
        return reflection->SetString(&message, field, Text());
      case FieldDescriptor::CPPTYPE_MESSAGE:
        return;
    }
  }
  void Add(Message& message, const FieldDescriptor* field) {
    const auto* reflection = message.GetReflection();
    switch (field->cpp_type()) {
      case FieldDescriptor::CPPTYPE_MESSAGE:
        return Mutate(*reflection->AddMessage(&message, field));
      case FieldDescriptor::CPPTYPE_STRING:
        return reflection->AddString(&message, field, Text());
      case FieldDescriptor::CPPTYPE_ENUM:
        return reflection->AddEnumValue(&message, field, static_cast<int>(random_() % 4));
      default:
        FAIL() << field->full_name() << " is of a type that nothing is made for";
    }
  }

  Random& random_;
};

std::string MutateBytes(std::string bytes, Random& random) {
  for (uint64_t i = 1 + random() % 4; i > 0; --i) {
    const size_t at = bytes.empty() ? 0 : random() % bytes.size();
    switch (random() % 5) {
      case 0:
        if (!bytes.empty()) bytes[at] = static_cast<char>(random());
        break;
      case 1:
        bytes.resize(at);
        break;
      case 2:
        bytes.insert(at, std::string(10, '\xff'));
        break;
      case 3:
        bytes.insert(at, bytes.substr(at / 2));
        break;
      default:
        if (!bytes.empty()) bytes[at] = static_cast<char>(bytes[at] ^ 1 << random() % 8);
    }
  }
  return bytes;
}

struct Answer {
  grpc::Status status;
  int messages = 0;
};

// One call at a time, of any method, with any bytes.
class Wire {
 public:
  explicit Wire(std::shared_ptr<grpc::Channel> channel) : stub_(std::move(channel)) {}
  ~Wire() {
    queue_.Shutdown();
    while (Await()) {
    }
  }
  Wire(const Wire&) = delete;
  Wire& operator=(const Wire&) = delete;

  Answer Call(const std::string& path, const std::string& bytes, Clock::duration deadline) {
    Answer answer;
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + deadline);
    const auto call = stub_.PrepareCall(&context, path, &queue_);
    call->StartCall(this);
    if (Await()) {
      const grpc::Slice slice(bytes);
      const grpc::ByteBuffer request(&slice, 1);
      call->WriteLast(request, grpc::WriteOptions(), this);
      Await();
      for (grpc::ByteBuffer response;; ++answer.messages) {
        call->Read(&response, this);
        if (!Await()) break;
      }
    }
    call->Finish(&answer.status, this);
    Await();
    return answer;
  }

 private:
  bool Await() {
    void* tag = nullptr;
    bool ok = false;
    return queue_.Next(&tag, &ok) && ok;
  }

  grpc::GenericStub stub_;
  grpc::CompletionQueue queue_;
};

class RequestFuzzTest : public ::testing::Test {
 protected:
  RequestFuzzTest() {
    const char* text = std::getenv("ZEROCP_FUZZ_SEED");
    const uint64_t seed =
        text == nullptr ? std::random_device()() : std::strtoull(text, nullptr, 10);
    std::printf("ZEROCP_FUZZ_SEED=%llu\n", static_cast<unsigned long long>(seed));
    random_.seed(seed);
    for (const char* service :
         {v1::AdminService::service_full_name(), v1::ObserverService::service_full_name(),
          v1::SessionService::service_full_name()}) {
      const auto* found =
          google::protobuf::DescriptorPool::generated_pool()->FindServiceByName(service);
      for (int i = 0; i < found->method_count(); ++i) methods_.push_back(found->method(i));
    }
  }

  std::string Pool() { return "p" + std::to_string(random_() % 4); }
  std::string Channel() { return "c" + std::to_string(random_() % 4); }
  std::string Flag() { return Coin(random_) ? "true" : "false"; }

  // A request that is right. What it names can be gone: others delete it.
  std::string RightRequest(const std::string& method) {
    const std::map<std::string, std::function<std::string()>> rows = {
        {"CreatePool",
         [&] {
           return R"({"poolId":")" + Pool() +
                  R"(","pool":{"chunkSizeBytes":64,"chunkCount":8},"allowExisting":true,"validateOnly":)" +
                  Flag() + "}";
         }},
        {"UpdatePool",
         [&] {
           return R"({"pool":{"name":"pools/keep"},"updateMask":"autoGrow","validateOnly":)" +
                  Flag() + "}";
         }},
        {"DeletePool",
         [&] { return R"({"name":"pools/)" + Pool() + R"(","allowMissing":true,"drain":true})"; }},
        {"CreateChannel",
         [&] {
           return R"({"channelId":")" + Channel() +
                  R"(","channel":{"pool":"pools/keep","whenFull":"WHEN_FULL_WAIT"},"allowExisting":true})";
         }},
        {"DeleteChannel",
         [&] {
           return R"({"name":"channels/)" + Channel() +
                  R"(","allowMissing":true,"evenIfInUse":true})";
         }},
        {"DetachSubscriber", [&] { return R"({"name":")" + Subscriber() + R"("})"; }},
        {"Cleanup", [&] { return R"({"execute":)" + Flag() + "}"; }},
        {"TerminateSession", [&] { return R"({"name":")" + NewSession() + R"("})"; }},
        {"SetLogLevel", [&] { return std::string(R"({"level":"LOG_LEVEL_WARN"})"); }},
        {"ApplyConfig",
         [&] { return R"({"config":)" + RunningConfig() + R"(,"validateOnly":)" + Flag() + "}"; }},
        {"ReloadConfig", [&] { return R"({"allowDeletion":true,"validateOnly":)" + Flag() + "}"; }},
        {"GetPool", [&] { return std::string(R"({"name":"pools/keep"})"); }},
        {"GetChannel", [&] { return std::string(R"({"name":"channels/keep"})"); }},
        {"WatchEvents", [&] { return std::string(R"({"stopAtEnd":true})"); }},
        {"WatchStats", [&] { return std::string(R"({"maxUpdates":1})"); }},
        {"CreateSession",
         [&] {
           return R"({"clientName":"fuzz","layoutVersion":)" + std::to_string(layout_version_) +
                  "}";
         }},
        {"Audit", [&] { return std::string("{}"); }},
        {"GetServerInfo", [&] { return std::string("{}"); }},
        {"ListPools", [&] { return std::string("{}"); }},
        {"ListSessions", [&] { return std::string("{}"); }},
        {"ListChannels", [&] { return std::string("{}"); }},
        {"ListHeldChunks", [&] { return std::string("{}"); }},
        {"GetConfig", [&] { return std::string("{}"); }},
        {"GetStats", [&] { return std::string("{}"); }},
    };
    const auto row = rows.find(method);
    if (row != rows.end()) return row->second();
    ADD_FAILURE() << method << " has no request here";
    return "{}";
  }

  // Names that right requests need, asked for; empty if there is none now.
  std::string Subscriber() {
    grpc::ClientContext context;
    v1::GetStatsResponse response;
    (void)observer_->GetStats(&context, {}, &response);
    for (const auto& channel : response.stats().channels())
      if (channel.subscribers_size() > 0) return channel.subscribers(0).subscriber();
    return "";
  }
  std::string NewSession() {
    grpc::ClientContext context;
    v1::CreateSessionRequest request;
    request.set_layout_version(layout_version_);
    v1::CreateSessionResponse response;
    (void)session_->CreateSession(&context, request, &response);
    return response.session().name();
  }
  std::string RunningConfig() {
    grpc::ClientContext context;
    v1::GetConfigResponse response;
    (void)observer_->GetConfig(&context, {}, &response);
    response.mutable_config()->clear_etag();
    std::string json;
    EXPECT_TRUE(google::protobuf::util::MessageToJsonString(response.config(), &json).ok());
    return json;
  }
  // What right requests need is there again.
  void Restore() {
    grpc::ClientContext context;
    v1::ReloadConfigRequest request;
    request.set_allow_deletion(true);
    v1::ReloadConfigResponse response;
    (void)admin_->ReloadConfig(&context, request, &response);
  }

  void CallOnce(const MethodDescriptor* method) {
    const std::unique_ptr<Message> request(google::protobuf::MessageFactory::generated_factory()
                                               ->GetPrototype(method->input_type())
                                               ->New());
    const std::string json = RightRequest(method->name());
    ASSERT_TRUE(google::protobuf::util::JsonStringToMessage(json, request.get()).ok()) << json;
    const uint64_t kind =
        random_() % 4;  // 0, 1: as it is; 2: with wrong fields; 3: with wrong bytes
    if (kind == 2) {
      FieldMutator mutator(random_);
      for (uint64_t i = 1 + random_() % 3; i > 0; --i) mutator.Mutate(*request);
    }
    std::string bytes = request->SerializeAsString();
    if (kind == 3) bytes = MutateBytes(std::move(bytes), random_);
    const bool stream = method->server_streaming();
    const Answer answer =
        wire_.Call("/" + method->service()->full_name() + "/" + method->name(), bytes,
                   stream && kind >= 2 ? Clock::duration(kStreamDeadline) : kUnaryDeadline);
    const int code = answer.status.error_code();
    ++calls_;
    if (code == grpc::StatusCode::OK) ++ok_[method->name()];
    const bool late = code == grpc::StatusCode::DEADLINE_EXCEEDED && !(stream && kind >= 2) &&
                      method->name() != "TerminateSession";
    // What Protobuf cannot decode is INTERNAL to gRPC; everything else that is, is a bug.
    const bool internal = code == grpc::StatusCode::INTERNAL && kind != 3;
    if (!late && !internal && code != grpc::StatusCode::UNAVAILABLE) return;
    ADD_FAILURE() << method->name() << " answers " << code << ": " << answer.status.error_message()
                  << "\n"
                  << request->ShortDebugString() << "\n"
                  << Tail();
  }

  // A client that subscribes, again when it was detached or its session ended.
  void Subscribe() {
    while (!stop_) {
      auto client = Client::Connect({.name = "subscriber", .runtime_dir = daemon_.runtime_dir()});
      if (!client) continue;
      auto subscriber = client->JoinAsSubscriber("keep");
      if (!subscriber) continue;
      while (!stop_ && client->state() == Code::kOk &&
             subscriber->Wait(milliseconds(10)).code() == Code::kTimeout) {
      }
    }
  }

  bool EachHasAnswered() {
    return std::all_of(methods_.begin(), methods_.end(),
                       [&](const auto* method) { return ok_[method->name()] >= kWantedOk; });
  }
  size_t Descriptors() const {
    size_t count = 0;
    for (const auto& entry :
         std::filesystem::directory_iterator("/proc/" + std::to_string(daemon_.pid()) + "/fd"))
      count += entry.path().empty() ? 0 : 1;
    return count;
  }
  std::string Tail() const {
    const std::string log = daemon_.Log();
    return log.substr(log.size() - std::min<size_t>(log.size(), 6000));
  }
  static std::string WriteConfig(const std::string& path) {
    testing::WriteFile(path, kConfig);
    return path;
  }

  Random random_;
  testing::TempDir dir_;
  // Its Cleanup removes what is stale in the whole directory.
  testing::TempDir segment_dir_{"/dev/shm"};
  // A small address range: no request can take more memory than that.
  testing::DaemonProcess daemon_{{"--config", WriteConfig(dir_.path() + "/zerocp.yaml"),
                                  "--reserve", "64MiB", "--segment-dir", segment_dir_.path()}};
  const std::shared_ptr<grpc::Channel> channel_ = grpc::CreateChannel(
      "unix:" + daemon_.socket("admin.sock"), grpc::InsecureChannelCredentials());
  Wire wire_{channel_};
  const std::unique_ptr<v1::AdminService::Stub> admin_ = v1::AdminService::NewStub(channel_);
  const std::unique_ptr<v1::ObserverService::Stub> observer_ =
      v1::ObserverService::NewStub(channel_);
  const std::unique_ptr<v1::SessionService::Stub> session_ = v1::SessionService::NewStub(channel_);
  std::vector<const MethodDescriptor*> methods_;
  std::map<std::string, int> ok_;
  int64_t calls_ = 0;
  int layout_version_ = 0;
  std::atomic<bool> stop_{false};
};

TEST_F(RequestFuzzTest, EveryRequestIsAnsweredAndNothingIsLeftBehind) {
  {
    grpc::ClientContext context;
    v1::GetServerInfoResponse info;
    ASSERT_TRUE(observer_->GetServerInfo(&context, {}, &info).ok());
    layout_version_ = info.layout_version();
  }
  const size_t descriptors = Descriptors();
  std::thread subscriber([this] { Subscribe(); });
  const char* text = std::getenv("ZEROCP_FUZZ_SECONDS");
  const auto start = Clock::now();
  const auto end = start + std::chrono::seconds(text == nullptr ? 4 : std::atoi(text));
  while ((Clock::now() < end || !EachHasAnswered()) && !HasFailure()) {
    if (calls_ % 64 == 0) Restore();
    CallOnce(methods_[random_() % methods_.size()]);
    if (Clock::now() < start + kWatchdog) continue;
    for (const auto* method : methods_)
      if (ok_[method->name()] < kWantedOk)
        ADD_FAILURE() << method->name() << " answered OK only " << ok_[method->name()] << " times";
  }
  stop_ = true;
  subscriber.join();
  std::printf("%lld calls\n", static_cast<long long>(calls_));
  // The daemon closes what it had of the subscriber in its own time.
  while (Descriptors() > descriptors && !HasFailure() && Clock::now() < start + kWatchdog)
    std::this_thread::sleep_for(milliseconds(10));
  EXPECT_LE(Descriptors(), descriptors);
  EXPECT_EQ(daemon_.Stop(SIGTERM), 0) << Tail();
}

}  // namespace
}  // namespace zerocp
