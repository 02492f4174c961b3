#include "tests/bench/peers/peers.h"

namespace zerocp::bench {

std::vector<Peer> AllPeers() {
  return {ZerocpPeer(), FloorPeer(),   FutexPeer(),    GlibcPeer(),  JemallocPeer(), MimallocPeer(),
          BoostPeer(),  IceoryxPeer(), Iceoryx2Peer(), SocketPeer(), PipePeer()};
}

}  // namespace zerocp::bench
