// SIGINT and SIGTERM as a wish to stop in order. The second one ends the process at once.
#pragma once

namespace zerocp::cli {

// Once, at the start, before any thread. Also ignores SIGPIPE: a closed output is an error of
// write.
void CatchStopSignals();

// The signal that asked to stop; 0: none did.
int StopSignal();

// Waits until `fd` can be read (or is at its end) or a signal asks to stop. False: the latter.
bool WaitReadable(int fd);

}  // namespace zerocp::cli
