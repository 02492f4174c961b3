// Packets of the attach protocol as an input describes them: right ones, with patches, of other
// sizes, with descriptors.
#pragma once

#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "tests/fuzz/live_instance.h"

namespace zerocp::fuzz {

inline constexpr size_t kMostDescriptors = 4;

// What an input says of a packet beside what it is: its size (0: the right one), and patches.
inline std::string Changed(std::string packet, Input& input) {
  const auto size = input.Next<uint16_t>() % 512;
  if (size != 0) packet.resize(static_cast<size_t>(size), 'x');
  for (int count = input.Next<uint8_t>() % 8; count > 0 && !packet.empty(); --count) {
    const size_t at = input.Next<uint16_t>() % packet.size();
    const std::string_view bytes = input.Bytes(input.Next<uint8_t>());
    packet.replace(at, std::min(bytes.size(), packet.size() - at), bytes, 0,
                   std::min(bytes.size(), packet.size() - at));
  }
  return packet;
}
inline std::string Unchanged() { return std::string(3, '\0'); }
inline std::string ChangedAt(size_t at, const std::string& bytes) {
  return BytesOf(uint16_t{0}) + BytesOf(uint8_t{1}) + BytesOf(static_cast<uint16_t>(at)) +
         BytesOf(static_cast<uint8_t>(bytes.size())) + bytes;
}
inline std::string Resized(uint16_t size) { return BytesOf(size) + BytesOf(uint8_t{0}); }

// False if the other end has hung up. REQUIRES: at most kMostDescriptors.
inline bool SendPacket(int socket, const std::string& packet, const std::vector<int>& descriptors) {
  iovec part{const_cast<char*>(packet.data()), packet.size()};  // sendmsg does not write to it
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  alignas(cmsghdr) char control[CMSG_SPACE(kMostDescriptors * sizeof(int))] = {};
  if (!descriptors.empty()) {
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(descriptors.size() * sizeof(int));
    cmsghdr* rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(descriptors.size() * sizeof(int));
    std::memcpy(CMSG_DATA(rights), descriptors.data(), descriptors.size() * sizeof(int));
  }
  return sendmsg(socket, &message, MSG_NOSIGNAL) >= 0;
}

}  // namespace zerocp::fuzz
