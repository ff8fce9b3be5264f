// The table of every kind of misuse and the message that it gets, in the other files of this folder.
// tests/error_rows_test.py demands a row for every message in tensor/, autograd/ and nn/.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "autograd/variable.h"
#include "tensor/error.h"

namespace halfstep::test {

struct Row {
  std::string name;  ///< the misuse
  std::function<void()> misuse;
  std::string text;  ///< '*' stands for anything, where it depends on the machine or on a library
};

/// Fails for every row whose misuse gives another text, and for every text that does not have the form of
/// messages (tensor/error.h).
void check_rows(const std::vector<Row>& rows);

/// Runs `action` with a variable of the environment set.
void with_environment(const char* name, const char* value, const std::function<void()>& action);

inline Tensor ones(const Shape& shape, DType dtype = DType::f32) { return Tensor::ones(shape, {dtype}); }
/// On another device.
inline Tensor elsewhere(const Shape& shape, DType dtype = DType::f32) {
  return Tensor::ones(shape, {dtype, &reference_device()});
}
inline Variable leaf(const Shape& shape, DType dtype = DType::f64) {
  return Variable(ones(shape, dtype), true);
}

}  // namespace halfstep::test
