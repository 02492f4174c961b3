// Between a word that the daemon stores and what clients did before they look at it, without a
// fence in the clients.
#pragma once

namespace zerocp::shm {

// Every store that a process made before it last looked at what is stored here already can be seen
// when this returns, and a look that has not happened yet sees it. Takes as long as the kernel's
// grace period: some 10 ms, and seconds where all processors are kept busy (11 were seen).
void Settle();

}  // namespace zerocp::shm
