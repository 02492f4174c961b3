// Writes one plain variable from two threads: ThreadSanitizer must report it.
#include <thread>

namespace {
int g_counter = 0;

void Increment() {
  for (int i = 0; i < 1000; ++i) ++g_counter;
}
}  // namespace

int main() {
  std::thread other(Increment);
  Increment();
  other.join();
  return g_counter > 0 ? 0 : 1;
}
