// What the command writes to standard output and to files.
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "client/cli/exit_code.h"

namespace zerocp::cli {

// A text from elsewhere, on one line: a ? for each byte of the characters that a terminal takes for
// commands (U+0000 to U+001F, U+007F to U+009F), and of what is not UTF-8.
std::string Printable(const std::string& text);

// Prints "zerocp: <what>", made printable, on standard error; returns `code`.
int Failed(ExitCode code, const std::string& what);

// To standard output, buffered. Whether it gets there, FlushOutput says.
void Print(const std::string& text);

// Writes out what was printed. 0, or the errno of what could not be written since the start.
int FlushOutput();

// All of it, by more than one write(2) only if the output takes less. False: errno says why; EINTR:
// a signal asks to stop, see stop_signal.h.
bool WriteAll(int fd, std::span<const std::byte> data);

// "write: No space left on device"
std::string WriteErrorText(int error);

// Nobody can read from the pipe or socket that standard output is. A look, it does not wait.
bool ReaderIsGone();

}  // namespace zerocp::cli
