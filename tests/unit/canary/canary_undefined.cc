// Overflows a signed integer: UndefinedBehaviorSanitizer must report it.
#include <limits>

int main() {
  volatile int number = std::numeric_limits<int>::max();
  const int next = number + 1;
  return next < 0 ? 0 : 1;
}
