// Fences that only the rare side pays for: one side makes all others execute a full fence now
// (membarrier(2)), so that these need none between a store and the load after it.
//
// What. Each process joins once, before it touches a session's memory; joining while other threads
// run takes a grace period of the kernel. A barrier then is an interrupt to each processor that
// runs a thread of a process that joined. Where the kernel refuses (a sandbox), the session's entry
// says so, nobody takes a chunk back from its caches, and Settle, which a deletion executes twice,
// waits for a grace period instead: some 10 ms, but seconds where all processors are kept busy (11
// were seen).
#pragma once

namespace zerocp::shm {

class MemPoolManager;

// True if Barrier reaches the threads of this process, from now on. From any thread.
bool JoinBarrier();

// A full fence in every thread of every process that joined. From any thread. False: the kernel
// refuses.
bool Barrier();

// True if a process of one of `manager`'s sessions has not joined.
bool NeedsGracePeriod(const MemPoolManager& manager);

// Every store that a session's process made before it last looked at what is stored here already
// can be seen when this returns, and a look that has not happened yet sees it.
void Settle(const MemPoolManager& manager);

}  // namespace zerocp::shm
