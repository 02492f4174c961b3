// A camera, a detector that must see every frame, and a viewer that only wants the latest.
//
//   frames camera COUNT     draws COUNT frames with a bright square that moves
//   frames detector         says where the square is in each frame
//   frames viewer           says what it saw and what it missed
//
// Channel `camera` waits when a queue is full. The detector is an ordinary subscriber: if it falls
// behind by the length of its queue, the camera waits for it. The viewer asks to be lossy: for it
// nobody ever waits, and it loses what it is too slow for.
#include <zerocp/zerocp.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

namespace {

// What travels: plain bytes, the same in every program. Its name changes whenever it does; a
// channel that names another message_type refuses us.
struct Frame {
  static constexpr const char* kMessageType = "example.Frame/1";
  static constexpr int kWidth = 640, kHeight = 480;
  std::int64_t number;
  std::uint8_t pixels[kHeight][kWidth];
};
constexpr int kSide = 8;  // of the square

// Every call returns a Result: its value, or the code and a sentence that says what to do.
template <class T>
T OrDie(zerocp::Result<T> result) {
  if (result) return std::move(*result);
  std::fprintf(stderr, "%s: %s\n", Name(result.code()), result.message().c_str());
  std::exit(1);
}

int Camera(zerocp::Client& client, int count) {
  auto camera = OrDie(client.JoinAsPublisher<Frame>("camera"));
  OrDie(camera.WaitForSubscribers(2));  // who joins later misses what was sent before
  int dropped = 0;
  for (int number = 1; number <= count; ++number) {
    // A free frame in shared memory; waits for one if need be. It has old bytes: clear it.
    auto frame = OrDie(camera.NewLoan(std::nullopt));
    std::memset(frame->pixels, 0, sizeof(frame->pixels));
    for (int y = 0; y < kSide; ++y) std::memset(&frame->pixels[number + y][2 * number], 255, kSide);
    frame->number = number;
    dropped += OrDie(camera.Publish(frame)).dropped;  // no copy; the frame is not ours any more
  }
  std::printf("camera: %d frames sent, %d dropped by the viewer\n", count, dropped);
  return 0;  // leaves the channel: the others see the end of the stream
}

int Detector(zerocp::Client& client) {
  auto frames = OrDie(client.JoinAsSubscriber<Frame>("camera"));
  auto frame = frames.Wait();
  for (; frame; frame = frames.Wait()) {  // the frame before goes back to the pool here
    const auto* first = static_cast<const std::uint8_t*>(
        std::memchr((*frame)->pixels, 255, sizeof((*frame)->pixels)));
    if (first == nullptr) return std::puts("detector: a frame without a square"), 1;
    const auto at = first - &(*frame)->pixels[0][0];
    std::printf("frame %d: square at %d,%d\n", static_cast<int>((*frame)->number),
                static_cast<int>(at % Frame::kWidth), static_cast<int>(at / Frame::kWidth));
  }
  // kPublisherDied if the camera was killed: then this was not all.
  std::printf("detector: %s\n", Name(frame.code()));
  return frame.code() == zerocp::Code::kEndOfStream ? 0 : 1;
}

int Viewer(zerocp::Client& client) {
  // A queue of one that drops: there is always the latest frame in it.
  auto frames =
      OrDie(client.JoinAsSubscriber<Frame>("camera", {.queue_capacity = 1, .lossy = true}));
  std::puts("viewer: ready");
  std::fflush(stdout);
  std::uint64_t seen = 0, missed = 0;
  std::int64_t last = 0;
  for (auto frame = frames.Wait(); frame; frame = frames.Wait()) {
    ++seen;
    missed += frame->missed_before();
    last = (*frame)->number;
  }
  std::printf("viewer: saw %d, missed %d, the last was frame %d\n", static_cast<int>(seen),
              static_cast<int>(missed), static_cast<int>(last));
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string role = argc > 1 ? argv[1] : "";
  if (role != "camera" && role != "detector" && role != "viewer")
    return std::puts("usage: frames camera COUNT | detector | viewer"), 2;
  // The name is what `zerocp sessions` and `zerocp stats` will call us.
  auto client = OrDie(zerocp::Client::Connect({.name = role}));
  if (role == "detector") return Detector(client);
  if (role == "viewer") return Viewer(client);
  return Camera(client, argc > 2 ? std::atoi(argv[2]) : 100);
}
