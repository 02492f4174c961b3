// Packets of a client, good and bad, to the daemon's AttachListener. Each is answered, or ends its
// connection; who attached gets its session back; and in the end there is no session, and no
// descriptor more than before.
#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <iterator>
#include <map>
#include <memory>

#include "client/internal/find_daemon.h"
#include "server/attach_listener.h"
#include "server/session_manager.h"
#include "tests/fuzz/attach_fuzz.h"
#include "tests/fuzz/attach_packets.h"

namespace zerocp::fuzz {
namespace {

using shm::AttachOp;
using shm::AttachReply;
using shm::AttachRequest;
using shm::Code;
using shm::UniqueFd;

constexpr int kMostPackets = 16;
constexpr uint8_t kNewConnection = 0xff;
// The listener may answer before it looks at its sockets, accepts 16 connections a time, and sees
// their ends then.
constexpr int kSettleRounds = 8;

AttachRequest Request(AttachOp op) {
  AttachRequest request{};
  request.magic = shm::kAttachMagic;
  request.version = shm::kAttachVersion;
  request.op = static_cast<uint32_t>(op);
  if (op == AttachOp::kAttach || op == AttachOp::kReconnect) {
    request.layout_version = shm::kLayoutVersion;
    request.limits_hash = shm::LimitsHash();
  }
  const bool joins = op == AttachOp::kJoinPublisher || op == AttachOp::kJoinSubscriber;
  if (joins || op == AttachOp::kAttach) std::string("waits").copy(request.name, 5);
  return request;
}

UniqueFd Listen(const std::string& path) {
  UniqueFd fd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof(address.sun_path) - 1);
  Expect(bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0 &&
             listen(fd.get(), 64) == 0,
         "cannot listen at " + path);
  return fd;
}

// A daemon's attach socket and what is behind it.
class Daemon {
 public:
  Daemon() {
    spdlog::set_level(spdlog::level::off);
    shm::PoolSpec pool;
    pool.name = "small";
    pool.chunk_size_bytes = 64;
    pool.chunk_count = 8;
    shm::ChannelSpec channel;
    channel.name = "waits";
    channel.pool = "small";
    MutexLock lock(core_.mutex);
    Expect(core_.manager->CreatePool(pool).ok() && core_.registry.Create(channel).ok(),
           "no pool and channel");
  }
  void Start() { Expect(sessions_.Restore().ok() && listener_.Start().ok(), "no attach socket"); }

  void Run(Input& input) {
    const size_t before = OpenDescriptors();
    for (int i = 0; i < kMostPackets && !input.empty(); ++i) {
      const auto op = input.Next<uint8_t>();
      if (op == kNewConnection || !socket_) Connect();
      if (op == kNewConnection) continue;
      AttachRequest request = Request(static_cast<AttachOp>(op % 8));
      if (op % 8 == static_cast<uint8_t>(AttachOp::kReconnect) && !cookies_.empty())
        Remind(request, *cookies_.rbegin());
      const auto count = input.Next<uint8_t>() % (kMostDescriptors + 1);
      Ask(Changed({reinterpret_cast<const char*>(&request), sizeof(request)}, input), count);
    }
    End();
    const size_t after = OpenDescriptors();
    Expect(after == before,
           std::to_string(after) + " descriptors are open, there were " + std::to_string(before));
  }

 private:
  using Cookies = std::map<uint32_t, std::array<uint8_t, shm::kCookieBytes>>;  // by session

  void Connect() {
    auto connected = internal::ConnectToDaemon(path_, SOCK_SEQPACKET);
    Expect(connected.ok(), "cannot connect: " + connected.status().message());
    socket_ = std::move(connected->fd);
  }
  static void Remind(AttachRequest& request, const Cookies::value_type& cookie) {
    request.session = cookie.first;
    std::copy(cookie.second.begin(), cookie.second.end(), request.cookie);
  }

  // Sends a packet and reads what comes; the reply's code.
  Code Ask(const std::string& packet, size_t descriptor_count) {
    SendPacket(socket_.get(), packet, std::vector<int>(descriptor_count, STDERR_FILENO));
    AttachReply reply{};
    alignas(cmsghdr) char control[CMSG_SPACE(kMostDescriptors * sizeof(int))];
    iovec part{&reply, sizeof(reply)};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    ssize_t got = 0;
    do {
      got = recvmsg(socket_.get(), &message, MSG_CMSG_CLOEXEC);
    } while (got < 0 && errno == EINTR);  // libFuzzer has a timer
    Expect(got == static_cast<ssize_t>(sizeof(reply)), "a packet without an answer");
    const cmsghdr* rights = CMSG_FIRSTHDR(&message);
    size_t received = 0;
    for (; rights != nullptr && CMSG_LEN((received + 1) * sizeof(int)) <= rights->cmsg_len;
         ++received) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(rights) + received * sizeof(fd), sizeof(fd));
      close(fd);
    }
    const auto code = static_cast<Code>(reply.code);
    const auto op = static_cast<AttachOp>(reply.op);
    const bool begins = op == AttachOp::kAttach || op == AttachOp::kReconnect;
    const bool attached = code == Code::kOk && op == AttachOp::kAttach;
    const bool detached = code == Code::kOk && op == AttachOp::kDetach;
    Expect(reply.magic == shm::kAttachMagic && reply.version == shm::kAttachVersion &&
               std::find(std::begin(reply.message), std::end(reply.message), '\0') !=
                   std::end(reply.message),
           "an answer that is no answer");
    Expect(received == (attached ? 2 : 0),
           "an answer with " + std::to_string(received) + " descriptors");
    if (attached) std::copy_n(reply.cookie, shm::kCookieBytes, cookies_[reply.session].begin());
    if (begins && code == Code::kOk) session_ = reply.session;
    if (detached) cookies_.erase(session_);
    // The daemon ends the connection.
    if (detached || code == Code::kInvalid || (begins && code != Code::kOk)) socket_.Reset();
    return code;
  }

  // Each session that is left is taken up again, and ended.
  void End() {
    while (!cookies_.empty()) {
      const auto cookie = *cookies_.begin();
      Connect();
      for (AttachOp op : {AttachOp::kReconnect, AttachOp::kDetach}) {
        AttachRequest request = Request(op);
        if (op == AttachOp::kReconnect) Remind(request, cookie);
        Expect(Ask({reinterpret_cast<const char*>(&request), sizeof(request)}, 0) == Code::kOk,
               "a session cannot be taken up again, or not be ended");
      }
    }
    socket_.Reset();
    Settle();
    Expect(sessions_.List().empty(), "a session is left");
  }
  // Returns when the listener has seen all that was sent and closed before.
  void Settle() {
    for (int i = 0; i < kSettleRounds; ++i) (void)listener_.FindDead(/*recover=*/false);
  }

  static std::unique_ptr<shm::MemPoolManager> Create(const std::string& directory) {
    shm::MemPoolManager::CreateOptions options = LiveInstance::Get().options();
    options.segment_dir = directory;
    auto manager = shm::MemPoolManager::Create(options);
    Expect(manager.ok(), "no instance: " + manager.status().message());
    return std::move(*manager);
  }
  static AttachListener::Options Options() {
    AttachListener::Options options;
    options.limits.max_attaches_per_second = 0;
    return options;
  }

  const std::string directory_ = NewDirectory();
  const std::string path_ = directory_ + "/attach.sock";
  Core core_{Create(directory_)};
  SessionManager sessions_{
      core_,
      UniqueFd(open((directory_ + "/sessions").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600)),
      {path_, true, geteuid()}};
  AttachListener listener_{core_, sessions_, Listen(path_), Options()};
  UniqueFd socket_;
  uint32_t session_ = 0;  // that the connection has
  Cookies cookies_;       // of the sessions that are left
};

std::string PacketOf(AttachOp op, uint8_t descriptors, const std::string& change) {
  return BytesOf(static_cast<uint8_t>(op)) + BytesOf(descriptors) + change;
}
std::string Packet(AttachOp op) { return PacketOf(op, 0, Unchanged()); }

}  // namespace

void ToListener(Input& input) {
  static Daemon* const daemon = [] {
    auto* made = new Daemon;  // never destroyed, like what it serves
    made->Start();
    return made;
  }();
  daemon->Run(input);
}

std::vector<std::string> ListenerSeeds() {
  const std::string attach = Packet(AttachOp::kAttach);
  const std::string all = attach + Packet(AttachOp::kJoinPublisher) +
                          Packet(AttachOp::kJoinSubscriber) + Packet(AttachOp::kLeavePublisher) +
                          Packet(AttachOp::kLeaveSubscriber);
  std::vector<std::string> seeds{
      all + Packet(AttachOp::kDetach),
      all + BytesOf(kNewConnection) + Packet(AttachOp::kReconnect) + Packet(AttachOp::kDetach)};
  for (uint8_t op = 0; op < 8; ++op) {
    const auto number = static_cast<AttachOp>(op);
    for (const std::string& before : {std::string(), attach}) {
      seeds.push_back(before + PacketOf(number, 1, Unchanged()));
      seeds.push_back(before + PacketOf(number, kMostDescriptors, Unchanged()));
      for (uint16_t size : {uint16_t{1}, uint16_t{287}, uint16_t{289}})
        seeds.push_back(before + PacketOf(number, 0, Resized(size)));
      // The numbers at both ends, and some places in the texts between.
      for (size_t at = 0; at < sizeof(AttachRequest); at += at >= 24 && at < 248 ? 32 : 4) {
        seeds.push_back(before + PacketOf(number, 0, ChangedAt(at, BytesOf(uint32_t{1}))));
        seeds.push_back(before + PacketOf(number, 0, ChangedAt(at, BytesOf(~uint32_t{0}))));
      }
    }
  }
  return seeds;
}

}  // namespace zerocp::fuzz
