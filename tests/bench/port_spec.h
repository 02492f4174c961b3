// A channel as its publishers and subscribers make it.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "tests/bench/subject.h"

namespace zerocp::bench {

// Equal at all ends of the channel.
struct PortSpec {
  std::string place = {};
  std::string channel = {};
  size_t bytes = 1024;
  size_t queue = 128;  // in messages
  size_t loans = 2;    // of a publisher, at once
  size_t samples = 2;  // of a subscriber, at once
  int publishers = 1;
  int subscribers = 1;
  bool drops = false;
  bool sleeps = false;
  bool loans_wait = false;  // for a chunk, where there are few of them

  std::string service() const { return place + "/" + channel; }
};

inline PortSpec PortsOf(const FanSpec& spec, size_t held = 1) {
  return {.place = spec.place,
          .channel = spec.channel,
          .bytes = spec.bytes,
          .loans = held,
          .samples = held + 1,
          .publishers = spec.publishers,
          .subscribers = spec.subscribers,
          .drops = spec.drops};
}

// The words of another process of a fan.
inline std::vector<std::string> Words(const char* kind, const FanSpec& spec, int index) {
  return {kind,
          spec.place,
          spec.channel,
          std::to_string(spec.bytes),
          std::to_string(spec.publishers),
          std::to_string(spec.subscribers),
          spec.drops ? "drops" : "waits",
          std::to_string(index)};
}
inline FanSpec FanSpecOf(const std::vector<std::string>& words) {
  return {.place = words.at(1),
          .channel = words.at(2),
          .bytes = std::stoul(words.at(3)),
          .publishers = std::stoi(words.at(4)),
          .subscribers = std::stoi(words.at(5)),
          .drops = words.at(6) == "drops"};
}
inline int IndexOf(const std::vector<std::string>& words) { return std::stoi(words.at(7)); }

}  // namespace zerocp::bench
