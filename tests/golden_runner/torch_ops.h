// The PyTorch operations that cases may name.
#pragma once

#include <string>
#include <vector>

namespace halfstep::test {

/// The last parts of the references that are known ("conv2d"), in the order of the alphabet.
std::vector<std::string> torch_op_names();

}  // namespace halfstep::test
