// The message of an expected error.
#pragma once

#include <functional>
#include <string>

#include "tensor/error.h"

namespace halfstep::test {

/// The text of the Error that `action` throws; "(no error)" if it throws none.
inline std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& e) {
    return e.what();
  }
  return "(no error)";
}

}  // namespace halfstep::test
