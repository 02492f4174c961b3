// Loaned messages as ROS 2 has them, for who comes from there.
//
//   loaned_message talker COUNT
//   loaned_message listener
//
// rclcpp's Publisher::borrow_loaned_message() and publish(std::move(message)), subscriptions with
// callbacks, and spin(), on zerocp's typed publishers and subscribers. As there, a message that is
// loaned has a fixed size: no std::string, no std::vector.
#include <poll.h>
#include <zerocp/zerocp.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace ros2_style {

template <class T>
T OrThrow(zerocp::Result<T> result) {
  if (!result) throw std::runtime_error(result.message());
  return std::move(*result);
}

template <class T>
class Publisher {
 public:
  using LoanedMessage = zerocp::TypedLoan<T>;  // *message and message-> instead of message.get()

  Publisher(zerocp::Client& client, const std::string& topic)
      : publisher_(OrThrow(client.JoinAsPublisher<T>(topic))) {}
  LoanedMessage borrow_loaned_message() { return OrThrow(publisher_.NewLoan(std::nullopt)); }
  void publish(LoanedMessage&& message) { OrThrow(publisher_.Publish(message)); }
  void wait_for_subscription() { OrThrow(publisher_.WaitForSubscribers(1)); }

 private:
  zerocp::TypedPublisher<T> publisher_;
};

// Calls back, one at a time, for the messages of any number of topics.
class Node {
 public:
  explicit Node(const std::string& name)
      : client_(OrThrow(zerocp::Client::Connect({.name = name}))) {}

  template <class T>
  Publisher<T> create_publisher(const std::string& topic) {
    return Publisher<T>(client_, topic);
  }
  // `depth` as in QoS keep-last; a subscription that is too slow loses the oldest.
  template <class T>
  void create_subscription(const std::string& topic, int depth,
                           std::function<void(const T&, std::uint64_t missed_before)> callback) {
    auto subscriber = std::make_shared<zerocp::TypedSubscriber<T>>(
        OrThrow(client_.JoinAsSubscriber<T>(topic, {.queue_capacity = depth, .lossy = true})));
    poll_.push_back({OrThrow(subscriber->fd()), POLLIN, 0});
    // True while the topic goes on. The message goes back to its pool when the callback returns.
    take_.push_back([subscriber, callback = std::move(callback)] {
      auto message = subscriber->TryTake();
      for (; message; message = subscriber->TryTake())
        callback(**message, message->missed_before());
      return message.code() == zerocp::Code::kTimeout;
    });
  }
  // Until every topic has ended.
  void spin() {
    for (std::size_t open = poll_.size(); open > 0;) {
      if (poll(poll_.data(), poll_.size(), -1) < 0) continue;
      for (std::size_t i = 0; i < poll_.size(); ++i) {
        if (poll_[i].revents == 0 || take_[i]()) continue;
        poll_[i].fd = -1;  // poll() leaves it out
        --open;
      }
    }
  }

 private:
  zerocp::Client client_;
  std::vector<pollfd> poll_;
  std::vector<std::function<bool()>> take_;
};

}  // namespace ros2_style

namespace {

struct Imu {
  static constexpr const char* kMessageType = "example.Imu/1";
  double stamp;
  double acceleration[3];
};

void Talk(int count) {
  ros2_style::Node node("talker");
  auto publisher = node.create_publisher<Imu>("imu");
  publisher.wait_for_subscription();
  for (int i = 1; i <= count; ++i) {
    auto message = publisher.borrow_loaned_message();
    *message = {.stamp = i * 0.01, .acceleration = {0, 0, 9.81}};
    publisher.publish(std::move(message));
  }
}

void Listen() {
  ros2_style::Node node("listener");
  int heard = 0;
  unsigned long missed = 0;
  double last = 0;
  node.create_subscription<Imu>("imu", 10, [&](const Imu& imu, std::uint64_t missed_before) {
    ++heard, missed += missed_before, last = imu.stamp;
  });
  std::puts("listener: ready");
  std::fflush(stdout);
  node.spin();
  std::printf("listener: %d messages, %lu missed, the last of %.2f s\n", heard, missed, last);
}

}  // namespace

int main(int argc, char** argv) {
  const std::string role = argc > 1 ? argv[1] : "";
  try {
    if (role == "talker" && argc > 2) return Talk(std::atoi(argv[2])), 0;
    if (role == "listener") return Listen(), 0;
  } catch (const std::exception& error) {
    return std::fprintf(stderr, "%s\n", error.what()), 1;
  }
  return std::puts("usage: loaned_message talker COUNT | listener"), 2;
}
