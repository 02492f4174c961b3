// Loses its only pointer to an allocation: LeakSanitizer must report it.
#include <cstdlib>

namespace {
void* volatile g_only_pointer = nullptr;
}

int main() {
  g_only_pointer = std::malloc(64);
  g_only_pointer = nullptr;
  return 0;
}
