// Which processor a thread runs on.
#pragma once

namespace zerocp::bench {

// Keeps this thread on one processor; does nothing if that is not allowed.
void PinTo(int processor);
// Lets this thread, and what it starts, run anywhere again.
void Unpin();

}  // namespace zerocp::bench
