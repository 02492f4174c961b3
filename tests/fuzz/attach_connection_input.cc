// Answers of a daemon, good and bad, to the client's Connection, with descriptors of all kinds,
// over segments that anybody may have written: ends, touches nothing outside, keeps no descriptor.
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <thread>

#include "client/internal/connection.h"
#include "shm/publisher_port.h"
#include "shm/session.h"
#include "shm/subscriber_port.h"
#include "tests/fuzz/attach_fuzz.h"
#include "tests/fuzz/attach_packets.h"

namespace zerocp::fuzz {
namespace {

using internal::Connection;
using shm::AttachOp;
using shm::AttachReply;
using shm::ChunkRef;
using shm::Code;
using shm::Deadline;
using shm::UniqueFd;

constexpr int kMostCalls = 16;
constexpr uint16_t kSession = 3;

enum DescriptorKind : uint8_t {
  kManagement,
  kChunk,
  kReadOnlyChunk,
  kEmptyFile,
  kPipe,
  kDirectory,
  kNull,
  kDescriptorKinds
};

struct Answer {
  std::string packet;
  std::vector<int> descriptors;  // of FakeDaemon
};
using Script = std::vector<std::vector<Answer>>;  // by connection

// Sends each connection what the script says, whatever it asks for.
class FakeDaemon {
 public:
  FakeDaemon() : listener_(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0)) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path_.copy(address.sun_path, sizeof(address.sun_path) - 1);
    Expect(bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0 &&
               listen(listener_.get(), 64) == 0,
           "cannot listen at " + path_);
    const LiveInstance& instance = LiveInstance::Get();
    int ends[2];
    Expect(pipe2(ends, O_CLOEXEC) == 0, "no pipe");
    UniqueFd chunk_file = instance.OpenChunk();
    fds_[kManagement] = instance.OpenManagement();
    fds_[kReadOnlyChunk] = UniqueFd(
        open(("/proc/self/fd/" + std::to_string(chunk_file.get())).c_str(), O_RDONLY | O_CLOEXEC));
    fds_[kChunk] = std::move(chunk_file);
    fds_[kEmptyFile] = UniqueFd(memfd_create("empty", MFD_CLOEXEC));
    fds_[kPipe] = UniqueFd(ends[0]);
    fds_[kDirectory] = UniqueFd(open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    fds_[kNull] = UniqueFd(open("/dev/null", O_RDWR | O_CLOEXEC));
    // Signals, such as those of libFuzzer's timer, are the other threads'.
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    std::thread([this] { Run(); }).detach();
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }
  const std::string& path() const { return path_; }
  int fd(uint8_t kind) const { return fds_[kind % kDescriptorKinds].get(); }

  // REQUIRES: nobody is connected.
  void Play(Script script) {
    script_ = std::move(script);
    next_ = 0;
  }
  // Returns when every connection that was made before has been served.
  void Finish() {
    const uint32_t before = finished_.load();
    auto end = internal::ConnectToDaemon(path_, SOCK_SEQPACKET);
    Expect(end.ok() && SendPacket(end->fd.get(), std::string(kEnd), {}),
           "the daemon's part is over");
    finished_.wait(before);
  }

 private:
  void Run() {
    for (;;) {
      if (!Serve()) continue;
      finished_.fetch_add(1);
      finished_.notify_one();
    }
  }
  // One connection; true if it was Finish's.
  bool Serve() {
    const UniqueFd connection(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (next_ < script_.size()) {
      for (const Answer& answer : script_[next_])
        SendPacket(connection.get(), answer.packet, answer.descriptors);
    }
    ++next_;
    shutdown(connection.get(), SHUT_WR);
    char request[sizeof(shm::AttachRequest)];
    ssize_t got;
    while ((got = recv(connection.get(), request, sizeof(request), 0)) > 0)
      if (static_cast<size_t>(got) == kEnd.size()) return true;
    return false;
  }

  static constexpr std::string_view kEnd = "end";
  const std::string path_ = NewDirectory() + "/attach.sock";
  const UniqueFd listener_;
  UniqueFd fds_[kDescriptorKinds];
  Script script_;    // the thread's while it is played
  size_t next_ = 0;  // likewise
  std::atomic<uint32_t> finished_{0};
};

AttachReply Reply(uint8_t op, const LiveInstance& instance) {
  AttachReply reply{};
  reply.magic = shm::kAttachMagic;
  reply.version = shm::kAttachVersion;
  reply.op = op;
  reply.layout_version = shm::kLayoutVersion;
  reply.session = kSession;
  const auto join = static_cast<AttachOp>(op);
  if (join == AttachOp::kJoinPublisher) WriteJoinInfo(instance.publishers()[0], &reply);
  if (join == AttachOp::kJoinSubscriber) WriteJoinInfo(instance.subscribers()[0], &reply);
  return reply;
}

Script ReadScript(const FakeDaemon& daemon, Input& input) {
  Script script(input.Next<uint8_t>() % 4);
  for (auto& answers : script) {
    answers.resize(input.Next<uint8_t>() % 8);
    for (Answer& answer : answers) {
      const auto op = static_cast<uint8_t>(input.Next<uint8_t>() % 8);
      const AttachReply reply = Reply(op, LiveInstance::Get());
      for (size_t count = input.Next<uint8_t>() % (kMostDescriptors + 1); count > 0; --count)
        answer.descriptors.push_back(daemon.fd(input.Next<uint8_t>()));
      answer.packet = Changed({reinterpret_cast<const char*>(&reply), sizeof(reply)}, input);
    }
  }
  return script;
}

void UsePublisher(const std::shared_ptr<shm::Session>& session, const shm::JoinInfo& info) {
  auto port = shm::PublisherPort::Create(session, info);
  ChunkRef chunk;
  shm::Published published{};
  if (!port.ok() || session->Loan((*port)->pool(), Deadline::Now(), &chunk) != Code::kOk) return;
  if ((*port)->Publish(chunk, Deadline::Now(), &published) != Code::kOk) session->Release(chunk);
  (*port)->LetGoOfHistory();
}

void UseSubscriber(const std::shared_ptr<shm::Session>& session, const shm::JoinInfo& info) {
  auto port = shm::SubscriberPort::Create(session, info);
  ChunkRef chunk;
  for (int i = 0; port.ok() && i < 4; ++i)
    if ((*port)->TryTake(&chunk) == Code::kOk) session->Release(chunk);
}

// One call of the client; false: it ends.
bool Call(Connection& connection, const std::shared_ptr<shm::Session>& session, uint8_t call) {
  const uint32_t index = call >> 4;
  switch (call % 6) {
    case 0:
      if (auto info = connection.Join(AttachOp::kJoinPublisher, "waits", "", {}); info.ok())
        UsePublisher(session, *info);
      return true;
    case 1:
      if (auto info = connection.Join(AttachOp::kJoinSubscriber, "waits", "", {}); info.ok())
        UseSubscriber(session, *info);
      return true;
    case 2:
      (void)connection.Leave(AttachOp::kLeavePublisher, 0, index);
      return true;
    case 3:
      (void)connection.Leave(AttachOp::kLeaveSubscriber, 0, index);
      return true;
    case 4:
      (void)connection.CheckIn();
      return true;
    default:
      return false;
  }
}

void Run(const FakeDaemon& daemon, Input& input) {
  auto connection = Connection::Open(daemon.path());
  Expect(connection.ok(), "cannot connect: " + connection.status().message());
  const auto how = input.Next<uint8_t>();
  const uint8_t token[shm::kTokenBytes] = {how};
  auto attached =
      (*connection)
          ->Attach("fuzz",
                   (how & 2) != 0 ? std::make_optional(Connection::Token(token)) : std::nullopt,
                   (how & 1) != 0);
  if (!attached.ok()) return;
  auto session = std::make_shared<shm::Session>(attached->manager, attached->session);
  int calls = 0;
  while (calls++ < kMostCalls && !input.empty() &&
         Call(**connection, session, input.Next<uint8_t>())) {
  }
  session->Close();
  (void)(*connection)->Detach();
}

std::string AnswerOf(AttachOp op, const std::string& descriptors, const std::string& change) {
  return BytesOf(static_cast<uint8_t>(op)) + BytesOf(static_cast<uint8_t>(descriptors.size())) +
         descriptors + change;
}

}  // namespace

void ToConnection(Input& input) {
  static FakeDaemon& daemon = *new FakeDaemon;  // never destroyed: its thread runs until the end
  const LiveInstance& instance = LiveInstance::Get();
  instance.Restore();
  instance.Patch(input, /*may_cut=*/true);
  const size_t before = OpenDescriptors();
  daemon.Play(ReadScript(daemon, input));
  Run(daemon, input);
  daemon.Finish();
  const size_t after = OpenDescriptors();
  Expect(after == before,
         std::to_string(after) + " descriptors are open, there were " + std::to_string(before));
}

std::vector<std::string> ConnectionSeeds() {
  const std::string segments{kManagement, kChunk};
  const std::string attach = AnswerOf(AttachOp::kAttach, segments, Unchanged());
  const std::string joins = AnswerOf(AttachOp::kJoinPublisher, "", Unchanged()) +
                            AnswerOf(AttachOp::kJoinSubscriber, "", Unchanged());
  const std::string calls{'\0', '\0', '\1'};
  const std::string one = BytesOf(uint8_t{1});
  const std::string whole = LiveInstance::NoPatch();
  std::vector<std::string> seeds{whole + one + BytesOf(uint8_t{3}) + attach + joins + calls};
  seeds.push_back(whole + one + BytesOf(uint8_t{2}) + attach +
                  AnswerOf(AttachOp::kJoinPublisher, segments, Unchanged()) + calls);
  // The connection ends after the joins, and is made anew, also in vain.
  for (const std::string& reconnect :
       {AnswerOf(AttachOp::kReconnect, "", Unchanged()),
        AnswerOf(AttachOp::kReconnect, "", ChangedAt(12, BytesOf(int32_t{5}))),
        AnswerOf(AttachOp::kReconnect, "", ChangedAt(12, BytesOf(int32_t{16}))),
        AnswerOf(AttachOp::kReconnect, "", ChangedAt(12, BytesOf(int32_t{13})))}) {
    seeds.push_back(
        whole + BytesOf(uint8_t{2}) + BytesOf(uint8_t{3}) + attach + joins + BytesOf(uint8_t{4}) +
        reconnect + AnswerOf(AttachOp::kLeaveSubscriber, "", Unchanged()) +
        AnswerOf(AttachOp::kLeavePublisher, "", Unchanged()) +
        AnswerOf(AttachOp::kDetach, "", Unchanged()) + calls + std::string{4, 2, 3, 4, 0, 1});
  }
  for (size_t at = 0; at < sizeof(AttachReply); at += at < 160 ? 4 : 64) {
    for (uint32_t value : {1u, 13u, ~0u}) {
      const std::string change = ChangedAt(at, BytesOf(value));
      seeds.push_back(whole + one + one + AnswerOf(AttachOp::kAttach, segments, change) + calls);
      seeds.push_back(whole + one + BytesOf(uint8_t{3}) + attach +
                      AnswerOf(AttachOp::kJoinPublisher, "", change) +
                      AnswerOf(AttachOp::kJoinSubscriber, "", change) + calls);
    }
  }
  for (uint8_t a = 0; a <= kDescriptorKinds; ++a) {
    for (uint8_t b = 0; b <= kDescriptorKinds; ++b) {
      std::string descriptors;
      for (uint8_t kind : {a, b})
        if (kind != kDescriptorKinds) descriptors += static_cast<char>(kind);
      seeds.push_back(whole + one + one + AnswerOf(AttachOp::kAttach, descriptors, Unchanged()) +
                      calls);
      seeds.push_back(whole + one + one +
                      AnswerOf(AttachOp::kAttach, descriptors + descriptors, Unchanged()) + calls);
    }
  }
  for (uint16_t size : {uint16_t{1}, uint16_t{383}, uint16_t{385}})
    seeds.push_back(whole + one + one + AnswerOf(AttachOp::kAttach, segments, Resized(size)));
  return seeds;
}

}  // namespace zerocp::fuzz
