// The one exception type of the project and the one form of its messages:
//   `[where] what was expected, what came, a hint`, for example
//   `[matmul] inner sizes differ: (4, 3) x (5, 2); transpose one operand?`
#pragma once

#include <fmt/core.h>

#include <stdexcept>
#include <string>
#include <string_view>

namespace halfstep {

/// Thrown for every misuse and every failed file or device operation.
class Error : public std::runtime_error {
 public:
  /// what() becomes "[where] message".
  Error(std::string_view where, std::string_view message);
};

namespace detail {
[[noreturn]] void throw_error(std::string_view where, fmt::string_view format, fmt::format_args args);
}

/// Throws Error; `where` is the operation, file kind or flag as the user knows it.
template <class... Args>
[[noreturn]] void fail(std::string_view where, fmt::format_string<Args...> format, Args&&... args) {
  detail::throw_error(where, format, fmt::make_format_args(args...));
}

/// Throws Error unless `ok`. The message is formatted only on failure; keep costly arguments out of hot
/// paths.
template <class... Args>
void require(bool ok, std::string_view where, fmt::format_string<Args...> format, Args&&... args) {
  if (!ok) [[unlikely]]
    detail::throw_error(where, format, fmt::make_format_args(args...));
}

}  // namespace halfstep
