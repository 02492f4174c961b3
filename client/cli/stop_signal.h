// SIGINT and SIGTERM as a wish to stop in order. The second one ends the process at once.
#pragma once

namespace zerocp::cli {

// At the start, before any thread; again has no effect. Also ignores SIGPIPE: a closed output is an
// error of write.
void CatchStopSignals();

// From now on `act` is called before a second one ends the process, and before SIGHUP and SIGQUIT
// do; nullptr: nothing is. REQUIRES: `act` is async-signal-safe.
void BeforeDeath(void (*act)());

// The signal that asked to stop; 0: none did.
int StopSignal();

// Waits until `fd` can be read (or is at its end) or a signal asks to stop. False: the latter.
bool WaitReadable(int fd);

}  // namespace zerocp::cli
