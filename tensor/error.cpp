#include "tensor/error.h"

namespace halfstep {

Error::Error(std::string_view where, std::string_view message)
    : std::runtime_error(fmt::format("[{}] {}", where, message)) {}

namespace detail {
void throw_error(std::string_view where, fmt::string_view format, fmt::format_args args) {
  throw Error(where, fmt::vformat(format, args));
}
}  // namespace detail

}  // namespace halfstep
