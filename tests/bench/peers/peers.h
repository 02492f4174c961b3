// Everything that zerocp is measured beside.
#pragma once

#include <vector>

#include "tests/bench/subject.h"

namespace zerocp::bench {

Peer ZerocpPeer();    // itself
Peer FloorPeer();     // two cache lines, one written by each process
Peer FutexPeer();     // the same, sleeping
Peer GlibcPeer();     // malloc and free
Peer JemallocPeer();  // its own, beside those of glibc
Peer MimallocPeer();  // as that
Peer BoostPeer();     // boost.interprocess: allocation in a managed segment
Peer IceoryxPeer();   // with an iox-roudi of its own
Peer Iceoryx2Peer();  // by a program in Rust (iceoryx2/), which is built by a script
Peer SocketPeer();    // a Unix stream socket
Peer PipePeer();      // two named pipes

// zerocp first.
std::vector<Peer> AllPeers();

}  // namespace zerocp::bench
