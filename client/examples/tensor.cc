// A tensor that goes from program to program by its handle, over a socket of one's own.
//
//   tensor consume SOCKET     waits at SOCKET for tensors, and answers each with its sum
//   tensor produce SOCKET     makes one, sends its handle there, and prints the answer
//
// No channel is needed: a handle is 36 characters that name a chunk of a pool to every program of
// the instance. Send it in a gRPC message, an HTTP header, a job queue; the bytes stay where they
// are. It keeps nothing alive: the producer keeps its sample until the consumer has its own.
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <zerocp/zerocp.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <span>
#include <string>

namespace {

constexpr int kRows = 1024, kColumns = 1024;  // floats: 4 MiB

// Beside its bytes a chunk has 64 of the application's: here the tensor's shape.
struct Shape {
  int rows, columns;
};

template <class T>
T OrDie(zerocp::Result<T> result) {
  if (result) return std::move(*result);
  std::fprintf(stderr, "%s: %s\n", Name(result.code()), result.message().c_str());
  std::exit(1);
}

int OrDie(int result, const char* what) {
  if (result >= 0) return result;
  std::perror(what);
  std::exit(1);
}

// One packet.
std::string Receive(int socket) {
  char text[128];
  const ssize_t size = recv(socket, text, sizeof(text), 0);
  return std::string(text, size > 0 ? static_cast<std::size_t>(size) : 0);
}

void Send(int socket, const std::string& text) {
  OrDie(static_cast<int>(send(socket, text.data(), text.size(), MSG_NOSIGNAL)), "send");
}

int Produce(zerocp::Client& client, const sockaddr_un& address) {
  auto loan = OrDie(client.NewLoan("tensors", sizeof(float) * kRows * kColumns));
  const std::span values(reinterpret_cast<float*>(loan.data().data()), kRows * kColumns);
  for (int row = 0; row < kRows; ++row)
    for (int column = 0; column < kColumns; ++column)
      values[static_cast<std::size_t>(row * kColumns + column)] = static_cast<float>(row % 2);
  const Shape shape{kRows, kColumns};
  std::memcpy(loan.header().data(), &shape, sizeof(shape));
  auto sample = OrDie(std::move(loan).Share());  // from now on nobody may write it

  const int peer = OrDie(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0), "socket");
  OrDie(connect(peer, reinterpret_cast<const sockaddr*>(&address), sizeof(address)), "connect");
  Send(peer, OrDie(sample.handle()).ToString());
  std::printf("producer: the consumer says %s\n", Receive(peer).c_str());
  close(peer);
  return 0;  // the sample is released: if nobody else holds the chunk, it is free again
}

int Consume(zerocp::Client& client, const sockaddr_un& address) {
  const int listener = OrDie(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0), "socket");
  OrDie(bind(listener, reinterpret_cast<const sockaddr*>(&address), sizeof(address)), "bind");
  OrDie(listen(listener, 1), "listen");
  std::puts("consumer: ready");
  std::fflush(stdout);
  const int peer = OrDie(accept(listener, nullptr, nullptr), "accept");
  const std::string text = Receive(peer);
  const auto handle = zerocp::Handle::Parse(text);
  if (!handle) return std::printf("consumer: '%s' is no handle\n", text.c_str()), 1;
  auto sample = OrDie(client.Open(*handle));  // ours until it goes out of scope
  Shape shape;
  std::memcpy(&shape, sample.header().data(), sizeof(shape));
  const std::span values(reinterpret_cast<const float*>(sample.data().data()),
                         sample.data().size() / sizeof(float));
  const double sum = std::accumulate(values.begin(), values.end(), 0.0);
  Send(peer, std::to_string(shape.rows) + "x" + std::to_string(shape.columns) + ", sum " +
                 std::to_string(static_cast<long>(sum)));
  close(peer);
  close(listener);
  unlink(address.sun_path);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string role = argc > 2 ? argv[1] : "";
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if ((role != "produce" && role != "consume") || std::strlen(argv[2]) >= sizeof(address.sun_path))
    return std::puts("usage: tensor produce SOCKET | consume SOCKET"), 2;
  std::strcpy(address.sun_path, argv[2]);
  // Who only reads may say so: the kernel then lets it write no payload.
  const bool consumer = role == "consume";
  auto client = OrDie(zerocp::Client::Connect({.name = "tensor " + role, .read_only = consumer}));
  return consumer ? Consume(client, address) : Produce(client, address);
}
