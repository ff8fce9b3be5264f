#include "tensor/cpu/caches.h"

#if defined(__linux__)
#include <unistd.h>
#endif

namespace halfstep::cpu {

int64_t second_level_cache() {
#if defined(_SC_LEVEL2_CACHE_SIZE)
  static const long bytes = sysconf(_SC_LEVEL2_CACHE_SIZE);
  if (bytes > 0) return bytes;
#endif
  return int64_t{1} << 20;
}

}  // namespace halfstep::cpu
