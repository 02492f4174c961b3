// Reads freed memory: AddressSanitizer must report it.
#include <memory>

int main() {
  auto owner = std::make_unique<int>(7);
  const volatile int* stale = owner.get();
  owner.reset();
  return *stale == 7 ? 0 : 1;
}
