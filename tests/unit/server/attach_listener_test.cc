// The client that dies is this program again: `--attach PATH` attaches, maps and waits to be
// killed;
// `--attach-and-exec PATH` then runs another program instead; `--attach-and-end PATH` detaches and
// ends at once; `--attach-and-leave-a-child PATH` has a child that keeps its connection open;
// `--attach-as-nobody PATH` attaches read-only as another user, and tries to write.
#include "server/attach_listener.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <functional>
#include <future>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

#include "server/cleanup.h"
#include "server/runtime_directory.h"
#include "tests/unit/server/session_fixture.h"

extern char** environ;

namespace zerocp {
namespace {

using shm::AttachOp;
using shm::AttachReply;
using shm::AttachRequest;
using shm::Code;
using shm::SessionState;

constexpr int kPatienceMs = 60'000;

bool Eventually(const std::function<bool()>& condition) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(kPatienceMs);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

AttachRequest Request(AttachOp op) {
  AttachRequest request;
  std::memset(static_cast<void*>(&request), 0, sizeof(request));
  request.magic = shm::kAttachMagic;
  request.version = shm::kAttachVersion;
  request.op = static_cast<uint32_t>(op);
  return request;
}

AttachRequest AttachPacket() {
  AttachRequest request = Request(AttachOp::kAttach);
  request.layout_version = shm::kLayoutVersion;
  request.limits_hash = shm::LimitsHash();
  std::string("test").copy(request.name, sizeof(request.name) - 1);
  return request;
}

AttachRequest ReconnectPacket(uint32_t session, const Cookie& cookie) {
  AttachRequest request = Request(AttachOp::kReconnect);
  request.layout_version = shm::kLayoutVersion;
  request.limits_hash = shm::LimitsHash();
  request.session = session;
  std::copy(cookie.begin(), cookie.end(), request.cookie);
  return request;
}

Cookie CookieOf(const AttachReply& reply) {
  Cookie cookie;
  std::copy(std::begin(reply.cookie), std::end(reply.cookie), cookie.begin());
  return cookie;
}

AttachRequest JoinPacket(AttachOp op, const char* channel) {
  AttachRequest request = Request(op);
  std::string(channel).copy(request.name, sizeof(request.name) - 1);
  return request;
}

// A client that speaks the protocol by hand, well or badly.
class RawClient {
 public:
  explicit RawClient(const std::string& path)
      : fd_(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0)) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, sizeof(address.sun_path) - 1);
    connected_ = connect(fd_.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0;
  }
  bool connected() const { return connected_; }
  int fd() const { return fd_.get(); }
  void Send(const void* bytes, size_t size) { send(fd_.get(), bytes, size, MSG_NOSIGNAL); }
  void Send(const AttachRequest& request) { Send(&request, sizeof(request)); }
  // False at the end of the connection.
  bool Receive(AttachReply* reply) {
    pollfd ready{fd_.get(), POLLIN, 0};
    if (poll(&ready, 1, kPatienceMs) != 1) ADD_FAILURE() << "no answer";
    iovec part{reply, sizeof(*reply)};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    alignas(cmsghdr) char control[CMSG_SPACE(4 * sizeof(int))];
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    if (recvmsg(fd_.get(), &message, MSG_CMSG_CLOEXEC) != static_cast<ssize_t>(sizeof(*reply))) {
      return false;
    }
    descriptors.clear();
    for (cmsghdr* c = CMSG_FIRSTHDR(&message); c != nullptr; c = CMSG_NXTHDR(&message, c)) {
      for (size_t at = 0; c->cmsg_type == SCM_RIGHTS && CMSG_LEN(at + sizeof(int)) <= c->cmsg_len;
           at += sizeof(int)) {
        int fd = -1;
        std::memcpy(&fd, CMSG_DATA(c) + at, sizeof(fd));
        descriptors.emplace_back(fd);
      }
    }
    return true;
  }
  AttachReply Ask(const AttachRequest& request) {
    Send(request);
    AttachReply reply;
    std::memset(static_cast<void*>(&reply), 0xff, sizeof(reply));
    EXPECT_TRUE(Receive(&reply)) << "the connection ended";
    return reply;
  }
  bool Ended() {
    AttachReply reply;
    return !Receive(&reply);
  }
  // Waits until the other side is gone; leaves what it sent.
  bool HungUp() {
    pollfd connection{fd_.get(), 0, 0};
    return poll(&connection, 1, -1) == 1 && (connection.revents & POLLHUP) != 0;
  }
  void Close() { fd_.Reset(); }

  std::vector<shm::UniqueFd> descriptors;  // that came with the last reply

 private:
  shm::UniqueFd fd_;
  bool connected_ = false;
};

class AttachListenerTest : public SessionFixture {
 protected:
  explicit AttachListenerTest(bool any_user = false) : SessionFixture(any_user) { Serve({}); }
  ~AttachListenerTest() override { listener_.reset(); }

  void Serve(AttachListener::Options options) {
    listener_.reset();
    directory_.reset();
    auto directory = RuntimeDirectory::Open(base_, RuntimeDirectory::Kind::kUser);
    ASSERT_TRUE(directory.ok()) << directory.status().message();
    directory_ = std::make_unique<RuntimeDirectory>(std::move(*directory));
    auto socket = directory_->Listen("attach.sock", SOCK_SEQPACKET, std::nullopt);
    ASSERT_TRUE(socket.ok()) << socket.status().message();
    listener_ =
        std::make_unique<AttachListener>(instance_.core, *sessions_, std::move(*socket), options);
    ASSERT_TRUE(listener_->Start().ok());
  }
  std::string socket() const { return base_ + "/attach.sock"; }
  void AddChannel() {
    EXPECT_TRUE(instance_.pools.Create(Spec("p", 4096, 64)).ok());
    shm::ChannelSpec spec;
    spec.name = "c";
    spec.pool = "p";
    EXPECT_TRUE(instance_.channels.Create(spec).ok());
  }
  uint32_t PublisherCount() {
    MutexLock lock(instance_.core.mutex);
    return shm::ChannelRegistry::PublisherCount(*instance_.core.registry.Find("c"));
  }
  // A process of its own that has attached.
  pid_t SpawnAttached(std::string mode) {
    std::string program = "/proc/self/exe", path = socket();
    char* argv[] = {program.data(), mode.data(), path.data(), nullptr};
    pid_t pid = 0;
    EXPECT_EQ(posix_spawn(&pid, argv[0], nullptr, nullptr, argv, environ), 0);
    EXPECT_TRUE(Eventually([&] { return log_.Has("attached: "); }));
    return pid;
  }
  void Kill(pid_t pid) {
    kill(pid, SIGKILL);
    waitpid(pid, nullptr, 0);
  }

  std::unique_ptr<RuntimeDirectory> directory_;
  std::unique_ptr<AttachListener> listener_;
};

TEST_F(AttachListenerTest, AnAttachBringsTwoDescriptorsOfTheSegmentsAndTheirGeometry) {
  RawClient client(socket());
  const AttachReply reply = client.Ask(AttachPacket());
  ASSERT_EQ(reply.code, 0) << reply.message;
  EXPECT_EQ(reply.magic, shm::kAttachMagic);
  EXPECT_EQ(reply.op, static_cast<uint32_t>(AttachOp::kAttach));
  EXPECT_EQ(reply.session, sessions_->List().at(0).id);
  ASSERT_EQ(client.descriptors.size(), 2u);
  const auto& manager = *instance_.core.manager;
  const shm::Segment* segments[] = {&manager.management_segment(), &manager.chunk_segment()};
  for (size_t i = 0; i < 2; ++i) {
    struct stat got {
    }, wanted{};
    ASSERT_EQ(fstat(client.descriptors[i].get(), &got), 0);
    ASSERT_EQ(fstat(segments[i]->fd(), &wanted), 0);
    EXPECT_EQ(got.st_ino, wanted.st_ino);
  }
  EXPECT_EQ(reply.management_reserved_bytes, manager.options().management_reserved_bytes);
  EXPECT_EQ(reply.chunk_reserved_bytes, manager.options().chunk_reserved_bytes);
  const auto uuid = manager.instance_uuid();
  EXPECT_EQ(std::memcmp(reply.instance_uuid, uuid.data(), uuid.size()), 0);
}

TEST_F(AttachListenerTest, EveryMalformedPacketIsAnsweredInvalidAndEndsTheConnection) {
  AddChannel();
  struct Case {
    const char* what;
    bool attached;
    std::function<void(AttachRequest&)> change;
  };
  const Case kTable[] = {
      {"magic", false, [](AttachRequest& r) { r.magic ^= 1; }},
      {"protocol version", false, [](AttachRequest& r) { r.version += 1; }},
      {"operation 0", false, [](AttachRequest& r) { r.op = 0; }},
      {"operation 8", false, [](AttachRequest& r) { r.op = 8; }},
      {"operation -1", true, [](AttachRequest& r) { r.op = UINT32_MAX; }},
      {"join before attach", false,
       [](AttachRequest& r) { r = JoinPacket(AttachOp::kJoinPublisher, "c"); }},
      {"leave before attach", false,
       [](AttachRequest& r) { r = Request(AttachOp::kLeavePublisher); }},
      {"detach before attach", false, [](AttachRequest& r) { r = Request(AttachOp::kDetach); }},
      {"second attach", true, [](AttachRequest&) {}},
      {"has_token 2", false, [](AttachRequest& r) { r.has_token = 2; }},
      {"read_only 2", false, [](AttachRequest& r) { r.read_only = 2; }},
      {"session in attach", false, [](AttachRequest& r) { r.session = 2; }},
      {"cookie in attach", false, [](AttachRequest& r) { r.cookie[15] = 1; }},
      {"reconnect of a session", true, [](AttachRequest& r) { r = ReconnectPacket(2, Cookie{1}); }},
      {"token in reconnect", false,
       [](AttachRequest& r) {
         r = ReconnectPacket(2, Cookie{1});
         r.token[0] = 1;
       }},
      {"name in reconnect", false,
       [](AttachRequest& r) {
         r = ReconnectPacket(2, Cookie{1});
         r.name[0] = 'x';
       }},
      {"index in reconnect", false,
       [](AttachRequest& r) {
         r = ReconnectPacket(2, Cookie{1});
         r.index = 1;
       }},
      {"token without has_token", false, [](AttachRequest& r) { r.token[31] = 1; }},
      {"unterminated label", false,
       [](AttachRequest& r) { std::memset(r.name, 'a', sizeof(r.name)); }},
      {"bytes behind the label", false, [](AttachRequest& r) { r.name[63] = 'x'; }},
      {"control character in the label", false, [](AttachRequest& r) { r.name[0] = '\n'; }},
      {"message type in attach", false, [](AttachRequest& r) { r.message_type[0] = 'x'; }},
      {"index in attach", false, [](AttachRequest& r) { r.index = 1; }},
      {"channel in attach", false, [](AttachRequest& r) { r.channel = 1; }},
      {"unterminated channel", true,
       [](AttachRequest& r) {
         r = JoinPacket(AttachOp::kJoinPublisher, "c");
         std::memset(r.name, 'a', sizeof(r.name));
       }},
      {"bytes behind the message type", true,
       [](AttachRequest& r) {
         r = JoinPacket(AttachOp::kJoinSubscriber, "c");
         r.message_type[127] = 'x';
       }},
      {"index in join", true,
       [](AttachRequest& r) {
         r = JoinPacket(AttachOp::kJoinSubscriber, "c");
         r.index = 3;
       }},
      {"layout version in join", true,
       [](AttachRequest& r) {
         r = JoinPacket(AttachOp::kJoinSubscriber, "c");
         r.layout_version = 1;
       }},
      {"read_only in join", true,
       [](AttachRequest& r) {
         r = JoinPacket(AttachOp::kJoinSubscriber, "c");
         r.read_only = 1;
       }},
      {"token in detach", true,
       [](AttachRequest& r) {
         r = Request(AttachOp::kDetach);
         r.token[0] = 1;
       }},
      {"name in leave", true,
       [](AttachRequest& r) {
         r = Request(AttachOp::kLeavePublisher);
         r.name[0] = 'c';
       }},
      {"index in detach", true,
       [](AttachRequest& r) {
         r = Request(AttachOp::kDetach);
         r.index = 1;
       }},
  };
  for (const Case& c : kTable) {
    RawClient client(socket());
    if (c.attached) {
      ASSERT_EQ(client.Ask(AttachPacket()).code, 0) << c.what;
    }
    AttachRequest request = AttachPacket();
    c.change(request);
    const AttachReply reply = client.Ask(request);
    EXPECT_EQ(reply.code, static_cast<int32_t>(Code::kInvalid)) << c.what;
    EXPECT_NE(reply.message[0], '\0') << c.what;
    EXPECT_TRUE(client.descriptors.empty()) << c.what;
    EXPECT_TRUE(client.Ended()) << c.what;
  }
  RawClient client(socket());
  EXPECT_EQ(client.Ask(AttachPacket()).code, 0);  // and the daemon goes on
}

TEST_F(AttachListenerTest, PacketsOfAnyOtherSizeAreMalformed) {
  const std::string bytes(4096, '\1');
  for (size_t size :
       {size_t{0}, size_t{1}, sizeof(AttachRequest) - 1, sizeof(AttachRequest) + 1, size_t{4096}}) {
    RawClient client(socket());
    client.Send(bytes.data(), size);
    AttachReply reply;
    ASSERT_TRUE(client.Receive(&reply)) << size;
    EXPECT_EQ(reply.code, static_cast<int32_t>(Code::kInvalid)) << size;
    EXPECT_TRUE(client.Ended()) << size;
  }
}

TEST_F(AttachListenerTest, DescriptorsFromAClientAreMalformedAndClosed) {
  RawClient client(socket());
  AttachRequest request = AttachPacket();
  iovec part{&request, sizeof(request)};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  cmsghdr* rights = CMSG_FIRSTHDR(&message);
  rights->cmsg_level = SOL_SOCKET;
  rights->cmsg_type = SCM_RIGHTS;
  rights->cmsg_len = CMSG_LEN(sizeof(int));
  int pipe_fds[2];
  ASSERT_EQ(pipe2(pipe_fds, O_CLOEXEC), 0);
  std::memcpy(CMSG_DATA(rights), &pipe_fds[1], sizeof(int));
  ASSERT_GT(sendmsg(client.fd(), &message, 0), 0);
  AttachReply reply;
  ASSERT_TRUE(client.Receive(&reply));
  EXPECT_EQ(reply.code, static_cast<int32_t>(Code::kInvalid));
  close(pipe_fds[1]);
  char byte;
  EXPECT_EQ(read(pipe_fds[0], &byte, 1), 0);  // the last writer is gone
  close(pipe_fds[0]);
}

TEST_F(AttachListenerTest, EveryDeniedTokenLooksTheSameAndTheLogSaysWhich) {
  constexpr int32_t kLayout = static_cast<int32_t>(shm::kLayoutVersion);
  const auto used = sessions_->Create("used", kLayout, std::nullopt, false);
  const auto foreign = sessions_->Create("foreign", kLayout, 4711, false);
  const auto expired = sessions_->Create("expired", kLayout, std::nullopt, false);
  AttachRequest request = AttachPacket();
  request.has_token = 1;
  std::memcpy(request.token, used->token.data(), used->token.size());
  RawClient holder(socket());
  ASSERT_EQ(holder.Ask(request).code, 0);

  Token wrong = used->token;
  wrong[0] ^= 0x80;
  const std::pair<Token, const char*> kTable[] = {{wrong, "unknown token"},
                                                  {used->token, "used already"},
                                                  {foreign->token, "for uid 4711"},
                                                  {expired->token, "has expired"}};
  std::vector<AttachReply> replies;
  for (const auto& [token, reason] : kTable) {
    if (reason == std::string("has expired")) now_ms_ += 11'000;
    std::memcpy(request.token, token.data(), token.size());
    RawClient client(socket());
    replies.push_back(client.Ask(request));
    EXPECT_EQ(replies.back().code, static_cast<int32_t>(Code::kDenied)) << reason;
    EXPECT_STREQ(replies.back().message, "attach refused");
    EXPECT_TRUE(client.descriptors.empty());
    EXPECT_TRUE(client.Ended());
    EXPECT_EQ(std::memcmp(&replies.back(), &replies.front(), sizeof(AttachReply)), 0) << reason;
    EXPECT_TRUE(log_.Has(reason)) << log_.text();
  }
}

TEST_F(AttachListenerTest, AnotherLayoutIsRefusedByNameOfBothVersions) {
  for (int change = 0; change < 2; ++change) {
    AttachRequest request = AttachPacket();
    if (change == 0) request.layout_version = 4242;
    if (change == 1) request.limits_hash ^= 1;
    RawClient client(socket());
    const AttachReply reply = client.Ask(request);
    EXPECT_EQ(reply.code, static_cast<int32_t>(Code::kVersionMismatch));
    EXPECT_EQ(reply.layout_version, shm::kLayoutVersion);
    const std::string message = reply.message;
    EXPECT_NE(message.find("version " + std::to_string(shm::kLayoutVersion)), std::string::npos);
    EXPECT_NE(message.find(std::to_string(request.layout_version)), std::string::npos) << message;
    EXPECT_TRUE(client.Ended());
  }
}

TEST_F(AttachListenerTest, MembersJoinAndLeaveAndADetachEndsTheSession) {
  AddChannel();
  RawClient client(socket());
  const AttachReply attached = client.Ask(AttachPacket());
  const AttachReply publisher = client.Ask(JoinPacket(AttachOp::kJoinPublisher, "c"));
  ASSERT_EQ(publisher.code, 0) << publisher.message;
  EXPECT_NE(publisher.lane_offset, 0u);
  EXPECT_EQ(publisher.queue_capacity, shm::kDefaultQueueCapacity);
  const AttachReply subscriber = client.Ask(JoinPacket(AttachOp::kJoinSubscriber, "c"));
  ASSERT_EQ(subscriber.code, 0) << subscriber.message;
  EXPECT_EQ(client.Ask(JoinPacket(AttachOp::kJoinPublisher, "nowhere")).code,
            static_cast<int32_t>(Code::kNotFound));
  AttachRequest leave = Request(AttachOp::kLeaveSubscriber);
  leave.channel = subscriber.channel;
  leave.index = subscriber.index;
  EXPECT_EQ(client.Ask(leave).code, 0);
  EXPECT_EQ(client.Ask(leave).code, static_cast<int32_t>(Code::kNotFound));
  leave.channel = UINT32_MAX;
  EXPECT_EQ(client.Ask(leave).code, static_cast<int32_t>(Code::kNotFound));
  EXPECT_EQ(PublisherCount(), 1u);
  EXPECT_EQ(client.Ask(Request(AttachOp::kDetach)).code, 0);
  EXPECT_TRUE(client.Ended());
  EXPECT_EQ(PublisherCount(), 0u);
  EXPECT_TRUE(sessions_->List().empty());
  EXPECT_FALSE(IsAttached(static_cast<uint16_t>(attached.session)));
}

TEST_F(AttachListenerTest, AReadOnlySessionGetsADescriptorThatTheKernelLetsNobodyWriteThrough) {
  AddChannel();
  AttachRequest request = AttachPacket();
  request.read_only = 1;
  RawClient client(socket());
  const AttachReply reply = client.Ask(request);
  ASSERT_EQ(reply.code, 0) << reply.message;
  EXPECT_EQ(reply.read_only, 1u);
  EXPECT_TRUE(sessions_->List().at(0).read_only);
  ASSERT_EQ(client.descriptors.size(), 2u);
  const int chunk = client.descriptors[1].get();
  struct stat got {
  }, wanted{};
  ASSERT_EQ(fstat(chunk, &got), 0);
  ASSERT_EQ(fstat(instance_.core.manager->chunk_segment().fd(), &wanted), 0);
  EXPECT_EQ(got.st_ino, wanted.st_ino);
  void* mapped = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, chunk, 0);
  EXPECT_TRUE(mapped == MAP_FAILED && errno == EACCES);
  mapped = mmap(nullptr, 4096, PROT_READ, MAP_SHARED, chunk, 0);
  ASSERT_NE(mapped, MAP_FAILED);
  EXPECT_TRUE(mprotect(mapped, 4096, PROT_READ | PROT_WRITE) != 0 && errno == EACCES);
  munmap(mapped, 4096);
  EXPECT_EQ(client.Ask(JoinPacket(AttachOp::kJoinPublisher, "c")).code,
            static_cast<int32_t>(Code::kDenied));
  EXPECT_EQ(client.Ask(JoinPacket(AttachOp::kJoinSubscriber, "c")).code, 0);
}

TEST_F(AttachListenerTest, RequestsSentInOneGoAreAnsweredInOrder) {
  RawClient client(socket());
  constexpr int kCount = 2000;  // more answers than the socket holds
  std::thread sender([&] {
    client.Send(AttachPacket());
    for (int i = 0; i < kCount; ++i) client.Send(JoinPacket(AttachOp::kJoinPublisher, "nowhere"));
  });
  AttachReply reply;
  ASSERT_TRUE(client.Receive(&reply));
  EXPECT_EQ(reply.op, static_cast<uint32_t>(AttachOp::kAttach));
  for (int i = 0; i < kCount; ++i) {
    ASSERT_TRUE(client.Receive(&reply)) << i;
    EXPECT_EQ(reply.code, static_cast<int32_t>(Code::kNotFound));
  }
  sender.join();
}

TEST_F(AttachListenerTest, AClientThatDoesNotReadItsAnswersHoldsUpNobody) {
  RawClient deaf(socket());
  fcntl(deaf.fd(), F_SETFL, O_NONBLOCK);
  deaf.Send(AttachPacket());
  const AttachRequest join = JoinPacket(AttachOp::kJoinPublisher, "nowhere");
  // Until both directions are full: the daemon keeps one answer and stops reading.
  ASSERT_TRUE(Eventually([&] { return send(deaf.fd(), &join, sizeof(join), MSG_NOSIGNAL) < 0; }));
  RawClient client(socket());
  EXPECT_EQ(client.Ask(AttachPacket()).code, 0);
}

TEST_F(AttachListenerTest, AHangUpOfALivingProcessOrphansItsSession) {
  RawClient client(socket());
  const auto id = static_cast<uint16_t>(client.Ask(AttachPacket()).session);
  client.Close();  // this process lives, and maps the segments
  EXPECT_TRUE(Eventually(
      [&] { return Mirror(id).state.load() == static_cast<uint32_t>(SessionState::kOrphaned); }));
  EXPECT_TRUE(IsAttached(id));
  const std::vector<SessionInfo> left = sessions_->List();
  EXPECT_EQ(left.size(), 1u);
  for (const SessionInfo& session : left) EXPECT_EQ(session.phase, SessionPhase::kOrphaned);
}

TEST_F(AttachListenerTest, AnOrphanThatComesWithItsCookieHasItsSessionBackAndIsWatchedAgain) {
  AddChannel();
  RawClient client(socket());
  const AttachReply attached = client.Ask(AttachPacket());
  const auto id = static_cast<uint16_t>(attached.session);
  ASSERT_EQ(client.Ask(JoinPacket(AttachOp::kJoinPublisher, "c")).code, 0);
  client.Close();
  const auto state = [&] { return Mirror(id).state.load(); };
  ASSERT_TRUE(
      Eventually([&] { return state() == static_cast<uint32_t>(SessionState::kOrphaned); }));
  RawClient again(socket());
  const AttachReply reply = again.Ask(ReconnectPacket(id, CookieOf(attached)));
  ASSERT_EQ(reply.code, 0) << reply.message;
  EXPECT_EQ(reply.session, attached.session);
  EXPECT_EQ(std::memcmp(reply.instance_uuid, attached.instance_uuid, sizeof(reply.instance_uuid)),
            0);
  EXPECT_TRUE(again.descriptors.empty());
  EXPECT_EQ(state(), static_cast<uint32_t>(SessionState::kAttached));
  EXPECT_EQ(sessions_->List().at(0).phase, SessionPhase::kAttached);
  EXPECT_EQ(PublisherCount(), 1u);
  EXPECT_EQ(again.Ask(JoinPacket(AttachOp::kJoinSubscriber, "c")).code, 0);
  again.Close();
  EXPECT_TRUE(
      Eventually([&] { return state() == static_cast<uint32_t>(SessionState::kOrphaned); }));
}

TEST_F(AttachListenerTest, AReconnectTakesThePlaceOfAConnectionThatSeemsToBeThereStill) {
  RawClient client(socket());
  const AttachReply attached = client.Ask(AttachPacket());
  RawClient again(socket());
  ASSERT_EQ(again.Ask(ReconnectPacket(attached.session, CookieOf(attached))).code, 0);
  EXPECT_TRUE(client.Ended());
  EXPECT_EQ(again.Ask(Request(AttachOp::kDetach)).code, 0);
  EXPECT_TRUE(sessions_->List().empty());
}

TEST_F(AttachListenerTest, EveryRefusedReconnectLooksTheSameAndTheLogSaysWhich) {
  RawClient client(socket());
  const AttachReply attached = client.Ask(AttachPacket());
  const Cookie cookie = CookieOf(attached);
  Cookie wrong = cookie;
  wrong[15] ^= 1;
  std::vector<AttachReply> replies;
  const auto refuse = [&](uint32_t session, const Cookie& with, const char* reason) {
    RawClient stranger(socket());
    replies.push_back(stranger.Ask(ReconnectPacket(session, with)));
    EXPECT_EQ(replies.back().code, static_cast<int32_t>(Code::kInstanceLost)) << reason;
    EXPECT_EQ(std::memcmp(&replies.back(), &replies.front(), sizeof(AttachReply)), 0) << reason;
    EXPECT_TRUE(stranger.Ended()) << reason;
    EXPECT_TRUE(log_.Has(reason)) << log_.text();
  };
  refuse(attached.session, wrong, "not the cookie of sessions/");
  refuse(attached.session + 1, cookie, "there is no session id");
  refuse(UINT32_MAX, cookie, "there is no session id 4294967295");
  EXPECT_EQ(client.Ask(JoinPacket(AttachOp::kJoinPublisher, "nowhere")).code,
            static_cast<int32_t>(Code::kNotFound));  // and the owner goes on
}

TEST_F(AttachListenerTest, SilentConnectionsAreClosed) {
  AttachListener::Options options;
  options.silence = std::chrono::milliseconds(1);
  Serve(options);
  RawClient client(socket());
  EXPECT_TRUE(client.Ended());
  EXPECT_TRUE(log_.Has("asked for nothing"));
}

TEST_F(AttachListenerTest, TooManySilentConnectionsCostTheOldestItsPlace) {
  AttachListener::Options options;
  options.max_unattached = 2;
  Serve(options);
  RawClient attached(socket());
  ASSERT_EQ(attached.Ask(AttachPacket()).code, 0);
  RawClient first(socket()), second(socket()), third(socket());
  EXPECT_TRUE(first.Ended());
  EXPECT_EQ(second.Ask(AttachPacket()).code, 0);
  EXPECT_EQ(third.Ask(AttachPacket()).code, 0);
  EXPECT_EQ(attached.Ask(JoinPacket(AttachOp::kJoinPublisher, "nowhere")).code,
            static_cast<int32_t>(Code::kNotFound));
}

TEST_F(AttachListenerTest, APacketFromAnotherProcessThanTheConnectorIsRefused) {
  RawClient client(socket());
  const pid_t child = fork();  // only system calls in the child
  if (child == 0) {
    const AttachRequest request = AttachPacket();
    _exit(send(client.fd(), &request, sizeof(request), MSG_NOSIGNAL) > 0 ? 0 : 1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  ASSERT_EQ(status, 0);
  AttachReply reply;
  ASSERT_TRUE(client.Receive(&reply));
  EXPECT_EQ(reply.code, static_cast<int32_t>(Code::kInvalid));
  EXPECT_TRUE(sessions_->List().empty());
}

TEST_F(AttachListenerTest, OutOfDescriptorsTheListenerWaitsAndIsNeverDeaf) {
  std::vector<shm::UniqueFd> hoard;
  RawClient early(socket());
  ASSERT_EQ(early.Ask(AttachPacket()).code, 0);
  RawClient late(socket());  // its own descriptor is there; the daemon's may not be
  ASSERT_EQ(late.Ask(AttachPacket()).code, 0);
  rlimit before{}, few{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  const int socket_fd = ::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
  few = before;
  few.rlim_cur = static_cast<rlim_t>(socket_fd) + 1;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &few), 0);
  // Lower numbers may still be free.
  for (int fd = 0; (fd = open("/dev/null", O_RDONLY | O_CLOEXEC)) >= 0;) hoard.emplace_back(fd);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  socket().copy(address.sun_path, sizeof(address.sun_path) - 1);
  ASSERT_EQ(connect(socket_fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  EXPECT_TRUE(Eventually([&] { return log_.Has("cannot accept"); }));
  hoard.clear();
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  const AttachRequest request = AttachPacket();
  ASSERT_GT(send(socket_fd, &request, sizeof(request), 0), 0);
  AttachReply reply;
  EXPECT_EQ(recv(socket_fd, &reply, sizeof(reply), 0), static_cast<ssize_t>(sizeof(reply)));
  EXPECT_EQ(reply.code, 0);
  close(socket_fd);
}

TEST_F(AttachListenerTest, ADeadProcessThatNothingTellsOfIsFoundAndRecoveredOnDemand) {
  AttachListener::Options options;
  options.death_watch = DeathWatchMode::kHangup;
  options.look_interval = std::chrono::hours(1);
  Serve(options);
  const pid_t child = SpawnAttached("--attach-and-leave-a-child");
  EXPECT_TRUE(listener_->FindDead(false).none());  // after the first look
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  // The connection lives on in the grandchild.
  const shm::SessionSet preview = listener_->FindDead(false);
  EXPECT_EQ(preview.count(), 1u);
  EXPECT_EQ(sessions_->List().size(), 1u);
  Cleaner cleaner(instance_.core, *sessions_,
                  [this](bool recover) { return listener_->FindDead(recover); });
  const auto found = cleaner.Run({.stale_segments = false, .execute = true});
  ASSERT_EQ(found.size(), 1u);
  EXPECT_NE(found[0].reason.find(std::to_string(child)), std::string::npos) << found[0].reason;
  EXPECT_TRUE(sessions_->List().empty());
  EXPECT_TRUE(listener_->FindDead(false).none());
  listener_->Stop();
  EXPECT_TRUE(listener_->FindDead(true).none());
}

TEST_F(AttachListenerTest, ItLivesOnlyWhileTheCoreIsFree) {
  listener_->ProveAlive();
  std::future<void> proof;
  {
    MutexLock stuck(instance_.core.mutex);
    proof = std::async(std::launch::async, [this] { listener_->ProveAlive(); });
    // More than the thread needs for its own turn.
    EXPECT_EQ(proof.wait_for(AttachListener::kTickInterval / 2), std::future_status::timeout);
  }
  proof.get();
}

class AnyUserListenerTest : public AttachListenerTest {
 protected:
  AnyUserListenerTest() : AttachListenerTest(/*any_user=*/true) {}
};

TEST_F(AnyUserListenerTest, AnotherUserCannotWritePayloadsOfAReadOnlySessionByAnyWay) {
  if (geteuid() != 0) return;                                     // only root can play another user
  ASSERT_TRUE(instance_.pools.Create(Spec("p", 4096, 64)).ok());  // so that there is something
  ASSERT_EQ(chmod(base_.c_str(), 0755), 0);
  ASSERT_EQ(chmod(socket().c_str(), 0666), 0);
  const pid_t child = SpawnAttached("--attach-as-nobody");
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0) << "exit code " << WEXITSTATUS(status) << ", see TryToWrite";
}

// The fixture is large and therefore the last base: UBSan takes a base far inside for a wild
// pointer.
class DeathModeTest : public ::testing::WithParamInterface<DeathWatchMode>,
                      public AttachListenerTest {
 protected:
  void SetUp() override {
    AttachListener::Options options;
    options.death_watch = GetParam();
    Serve(options);
  }
};

TEST_P(DeathModeTest, AKilledClientIsRecoveredAndAStoppedOneIsNot) {
  AddChannel();
  const pid_t child = SpawnAttached("--attach");
  kill(child, SIGSTOP);
  siginfo_t info{};
  waitid(P_PID, static_cast<id_t>(child), &info, WSTOPPED | WNOWAIT);
  RawClient other(socket());  // answered after the listener had the chance to err
  ASSERT_EQ(other.Ask(AttachPacket()).code, 0);
  EXPECT_EQ(sessions_->List().size(), 2u);
  Kill(child);
  EXPECT_TRUE(Eventually([&] { return sessions_->List().size() == 1; }));
  EXPECT_EQ(sessions_->recovered_session_count(), 1u);
}

TEST_P(DeathModeTest, AClientThatRunsAnotherProgramIsRecovered) {
  const pid_t child = SpawnAttached("--attach-and-exec");
  EXPECT_TRUE(Eventually([&] { return sessions_->List().empty(); }));
  EXPECT_EQ(kill(child, 0), 0);  // it lives
  Kill(child);
}

TEST_P(DeathModeTest, AClientThatDetachesAndEndsAtOnceLeftInOrder) {
  const pid_t child = SpawnAttached("--attach-and-end");
  EXPECT_TRUE(Eventually([&] { return log_.Has("detached: "); })) << log_.text();
  EXPECT_EQ(sessions_->recovered_session_count(), 0u);
  waitpid(child, nullptr, 0);
}

TEST_P(DeathModeTest, TheNextListenerWatchesWhomTheLastOneLeft) {
  const pid_t child = SpawnAttached("--attach");
  // Only its mappings say that it lives in its session once its connection is gone.
  EXPECT_TRUE(Eventually([&] {
    std::ifstream file("/proc/" + std::to_string(child) + "/maps");
    const std::string maps{std::istreambuf_iterator<char>(file), {}};
    return maps.find("_memory_management") != std::string::npos;
  }));
  listener_.reset();
  sessions_ = Open();
  ASSERT_TRUE(sessions_->Restore().ok());
  AttachListener::Options options;
  options.death_watch = GetParam();
  Serve(options);
  const std::vector<SessionInfo> left = sessions_->List();
  EXPECT_EQ(left.size(), 1u);
  for (const SessionInfo& session : left) EXPECT_EQ(session.phase, SessionPhase::kOrphaned);
  Kill(child);
  EXPECT_TRUE(Eventually([&] { return sessions_->List().empty(); }));
}

INSTANTIATE_TEST_SUITE_P(Modes, DeathModeTest,
                         ::testing::Values(DeathWatchMode::kAuto, DeathWatchMode::kPidfdOpen,
                                           DeathWatchMode::kHangup));

// As another user, with the descriptor of a read-only session. Returns the number of the first step
// that should have been refused.
int TryToWrite(int chunk) {
  void* mapped = mmap(nullptr, 4096, PROT_READ, MAP_SHARED, chunk, 0);
  if (mapped == MAP_FAILED) return 10;
  if (mprotect(mapped, 4096, PROT_READ | PROT_WRITE) == 0) return 11;
  if (mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, chunk, 0) != MAP_FAILED) return 12;
  const std::string again = "/proc/self/fd/" + std::to_string(chunk);
  if (open(again.c_str(), O_RDWR | O_CLOEXEC) >= 0 || errno != EACCES) return 13;
  if (fchmod(chunk, 0666) == 0) return 14;
  if (ftruncate(chunk, 0) == 0) return 15;
  return 0;
}

int BeAClient(const std::string& mode, const std::string& path) {
  constexpr uid_t kNobody = 65534;
  const bool nobody = mode == "--attach-as-nobody";
  if (nobody && setresuid(kNobody, kNobody, kNobody) != 0) return 2;
  RawClient client(path);
  // Before it attaches, so that whoever sees the session knows that the child is there. No other
  // thread runs. It reads nothing: the answers are the parent's.
  if (mode == "--attach-and-leave-a-child" && fork() == 0) {
    return client.HungUp() ? 0 : 1;
  }
  AttachReply reply;
  AttachRequest attach = AttachPacket();
  attach.read_only = nobody ? 1 : 0;
  client.Send(attach);
  if (!client.connected() || !client.Receive(&reply) || reply.code != 0) return 1;
  if (nobody) return TryToWrite(client.descriptors[1].get());
  void* mapped = mmap(nullptr, 4096, PROT_READ, MAP_SHARED, client.descriptors[0].get(), 0);
  if (mapped == MAP_FAILED) return 1;
  client.descriptors.clear();
  if (mode == "--attach-and-exec") execl("/bin/sleep", "sleep", "1000", nullptr);
  if (mode == "--attach-and-end") {
    client.Send(Request(AttachOp::kDetach));
    _exit(0);
  }
  pause();
  return 0;
}

}  // namespace
}  // namespace zerocp

int main(int argc, char** argv) {
  if (argc == 3 && std::string(argv[1]).rfind("--attach", 0) == 0) {
    return zerocp::BeAClient(argv[1], argv[2]);
  }
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
