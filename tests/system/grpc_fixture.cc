#include "tests/system/grpc_fixture.h"

#include <google/protobuf/dynamic_message.h>
#include <google/protobuf/util/json_util.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <filesystem>
#include <future>

#include "google/rpc/status.pb.h"

namespace zerocp {
namespace {

shm::UniqueFd Listen(const std::string& path) {
  shm::UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof(address.sun_path) - 1);
  if (bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0 ||
      listen(fd.get(), 64) != 0) {
    ADD_FAILURE() << "cannot listen on " << path;
  }
  return fd;
}

grpc::ByteBuffer ToBuffer(const std::string& bytes) {
  grpc::Slice slice(bytes);
  return grpc::ByteBuffer(&slice, 1);
}

std::string FromBuffer(const grpc::ByteBuffer& buffer) {
  std::vector<grpc::Slice> slices;
  std::string bytes;
  if (buffer.Valid() && buffer.Dump(&slices).ok()) {
    for (const grpc::Slice& slice : slices) {
      bytes.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
    }
  }
  return bytes;
}

void Decode(const grpc::Status& status, Outcome* outcome) {
  outcome->code = status.error_code();
  outcome->message = status.error_message();
  google::rpc::Status details;
  ASSERT_TRUE(details.ParseFromString(status.error_details()));
  outcome->details_size = details.details_size();
  outcome->status_bytes = status.error_details().size();
  for (const auto& detail : details.details()) {
    google::rpc::BadRequest bad_request;
    google::rpc::RequestInfo request;
    if (detail.UnpackTo(&bad_request)) {
      for (const auto& violation : bad_request.field_violations()) {
        EXPECT_FALSE(violation.description().empty());
        outcome->fields.push_back(violation.field());
      }
    } else if (detail.UnpackTo(&request)) {
      outcome->request_id = request.request_id();
    } else {
      detail.UnpackTo(&outcome->info);
    }
  }
}

}  // namespace

Caller::Caller(const std::string& socket_path) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // a connection of its own
  arguments.SetMaxSendMessageSize(-1);
  channel_ = grpc::CreateCustomChannel("unix:" + socket_path, grpc::InsecureChannelCredentials(),
                                       arguments);
}

Outcome Caller::Exchange(const std::string& method, const std::string& request,
                         std::string* response, std::chrono::milliseconds timeout) const {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + timeout);
  const grpc::ByteBuffer sent = ToBuffer(request);
  grpc::ByteBuffer received;
  std::promise<grpc::Status> done;
  grpc::GenericStub(channel_).UnaryCall(
      &context, "/" + method, grpc::StubOptions(), &sent, &received,
      [&](grpc::Status status) { done.set_value(std::move(status)); });
  Outcome outcome;
  Decode(done.get_future().get(), &outcome);
  *response = FromBuffer(received);
  return outcome;
}

Outcome Caller::CallBytes(const std::string& method, const std::string& bytes,
                          std::chrono::milliseconds timeout) const {
  std::string response;
  return Exchange(method, bytes, &response, timeout);
}

Outcome Caller::Call(const std::string& method, const std::string& json,
                     std::chrono::milliseconds timeout) const {
  std::string full_name = method;
  std::replace(full_name.begin(), full_name.end(), '/', '.');
  const auto* descriptor =
      google::protobuf::DescriptorPool::generated_pool()->FindMethodByName(full_name);
  if (descriptor == nullptr) {
    ADD_FAILURE() << "no method " << method;
    return {};
  }
  google::protobuf::DynamicMessageFactory factory;
  std::unique_ptr<google::protobuf::Message> request(
      factory.GetPrototype(descriptor->input_type())->New());
  const auto parsed = google::protobuf::util::JsonStringToMessage(json, request.get());
  EXPECT_TRUE(parsed.ok()) << parsed << " in " << json;
  std::string bytes;
  Outcome outcome = Exchange(method, request->SerializeAsString(), &bytes, timeout);
  if (!outcome.ok()) return outcome;

  std::unique_ptr<google::protobuf::Message> response(
      factory.GetPrototype(descriptor->output_type())->New());
  EXPECT_TRUE(response->ParseFromString(bytes));
  google::protobuf::util::JsonPrintOptions options;
  options.always_print_primitive_fields = true;
  EXPECT_TRUE(google::protobuf::util::MessageToJsonString(*response, &outcome.json, options).ok());
  return outcome;
}

absl::StatusOr<CreatedSession> FakeSessions::Create(const std::string& client_name,
                                                    int32_t layout_version,
                                                    std::optional<uid_t> peer_uid, bool read_only) {
  if (absl::Status status = before_create(); !status.ok()) return status;
  if (layout_version != static_cast<int32_t>(shm::kLayoutVersion)) {
    return MakeError(Reason::kLayoutVersionMismatch, "the client has another layout",
                     {{"client", std::to_string(layout_version)},
                      {"server", std::to_string(shm::kLayoutVersion)}});
  }
  std::lock_guard lock(mutex_);
  SessionInfo session;
  session.name = "sessions/" + std::to_string(sessions_.size());
  session.client_name = client_name;
  session.uid = peer_uid;
  session.read_only = read_only;
  // All at one instant: order must not depend on the clock.
  session.create_time = std::chrono::system_clock::time_point(std::chrono::seconds(1));
  sessions_.push_back(session);
  return CreatedSession{session, Token{}, session.create_time + kTokenTtl};
}

void FakeSessions::Terminate(const std::string& name, const std::string&, bool,
                             std::chrono::milliseconds, Terminated done) {
  std::unique_lock lock(mutex_);
  const bool found = std::any_of(sessions_.begin(), sessions_.end(),
                                 [&](const SessionInfo& session) { return session.name == name; });
  if (found) return terminations_.push_back(std::move(done));
  lock.unlock();
  done(MakeError(Reason::kSessionNotFound, "there is no " + name, {{"resource", name}}));
}

void FakeSessions::AbandonTerminations() {
  std::lock_guard lock(mutex_);
  for (const Terminated& done : terminations_) {
    done(MakeError(Reason::kServerDraining, "the daemon is stopping"));
  }
  terminations_.clear();
}

std::vector<SessionInfo> FakeSessions::List() {
  std::lock_guard lock(mutex_);
  return sessions_;
}

ControlPlane::ControlPlane(bool ready, std::optional<TlsEndpoint> tls)
    : directory_(NewDirectory("/tmp")) {
  config_file = std::make_unique<ConfigFile>(config_path(), Config());
  config = std::make_unique<ConfigManager>(instance.core, instance.pools, instance.channels,
                                           directory_ + "/journal", config_file.get());
  auto started = GrpcServer::Start(
      {instance.core, instance.pools, instance.channels, *config, sessions, cleaner, rpc_metrics,
       Listen(directory_ + "/admin.sock"), Listen(directory_ + "/client.sock"), std::move(tls)});
  if (!started.ok()) {
    ADD_FAILURE() << started.status();
    abort();
  }
  server = std::move(*started);
  if (ready) server->SetReady();
}

ControlPlane::~ControlPlane() {
  server.reset();
  std::filesystem::remove_all(directory_);
}

}  // namespace zerocp
