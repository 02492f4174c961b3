#include "client/cli/terminal.h"

#include <curses.h>
#include <term.h>
#include <termios.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

#include "client/cli/output.h"
#include "client/cli/stop_signal.h"

// Macros of curses that the code below must not fall over.
#undef lines
#undef timeout
#undef tone

namespace zerocp::cli {
namespace {

static_assert(Terminal::kNoKey == ERR);

// What Restore needs, which a signal may call at any time once they are set.
termios g_modes{};
std::string g_leave;  // the commands that end what curses began

int Collect(int c) {
  g_leave += static_cast<char>(c);
  return c;
}

// Async-signal-safe.
void Restore() {
  const pid_t foreground = tcgetpgrp(STDOUT_FILENO);
  if (foreground != -1 && foreground != getpgrp()) return;  // another job has the terminal
  [[maybe_unused]] const ssize_t written = write(STDOUT_FILENO, g_leave.data(), g_leave.size());
  tcsetattr(STDOUT_FILENO, TCSANOW, &g_modes);
}

// False: curses cannot use the terminal.
bool PrepareRestore() {
  int error = 0;
  if (setupterm(nullptr, STDOUT_FILENO, &error) != OK) return false;
  if (tcgetattr(STDOUT_FILENO, &g_modes) != 0) return false;
  g_leave.clear();
  for (const char* name : {"rmkx", "op", "sgr0", "cnorm", "rmcup"}) {
    const char* const command = tigetstr(name);
    if (command != nullptr) tputs(command, 1, Collect);
  }
  BeforeDeath(Restore);
  return true;
}

}  // namespace

std::unique_ptr<Terminal> Terminal::Open() {
  if (PrepareRestore() && newterm(nullptr, stdout, stdin) != nullptr)
    return std::unique_ptr<Terminal>(new Terminal());
  BeforeDeath(nullptr);
  const char* const term = std::getenv("TERM");
  Failed(kFailed, std::string("this machine does not know the terminal TERM=") +
                      (term == nullptr ? "" : term) +
                      ": set TERM to one of `toe -a`, such as xterm");
  return nullptr;
}

Terminal::Terminal() {
  cbreak();
  noecho();
  curs_set(0);
  keypad(stdscr, TRUE);
  if (WantsColour() && has_colors()) {
    start_color();
    use_default_colors();
    init_pair(1, COLOR_GREEN, -1);
    init_pair(2, COLOR_YELLOW, -1);
    init_pair(3, COLOR_RED, -1);
    coloured_ = true;
  }
}

Terminal::~Terminal() {
  endwin();
  BeforeDeath(nullptr);
}

void Terminal::Draw(const TopView& view) const {
  const auto attribute_of = [this](Tone tone) -> attr_t {
    if (tone == Tone::kHeading) return A_BOLD;
    if (tone == Tone::kPlain) return A_NORMAL;
    return coloured_ ? COLOR_PAIR(static_cast<int>(tone)) : A_BOLD;
  };
  erase();
  if (COLS < 40 || LINES < 10) {
    mvaddstr(0, 0, "too small");
  } else {
    const auto lines = TopScreen(view, static_cast<size_t>(COLS), static_cast<size_t>(LINES));
    for (size_t row = 0; row < lines.size(); ++row) {
      attrset(attribute_of(lines[row].tone));
      mvaddstr(static_cast<int>(row), 0, lines[row].text.c_str());
    }
  }
  refresh();
}

int Terminal::Key(std::chrono::milliseconds wait) {
  wtimeout(stdscr, static_cast<int>(wait.count()));
  return getch();
}

}  // namespace zerocp::cli
