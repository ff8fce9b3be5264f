// The Python call that a PyTorch case names as its reference, such as
// "torch.nn.functional.pad(x,(0,1,0,1))".
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace halfstep::test {

struct TorchCall {
  std::string function;                            ///< "pad": without the module, in small letters
  std::vector<nlohmann::json> positional;          ///< null for a tensor such as x
  std::map<std::string, nlohmann::json> keywords;  ///< "scale_factor" -> 2.0
};

/// "torch add", "torch.softmax(x,-1)", "torch.nn.functional.conv2d after torch.nn.functional.pad" (conv2d),
/// "torch.cat(dim=1)". Throws Error for brackets that do not close.
TorchCall parse_torch_call(std::string_view reference);

}  // namespace halfstep::test
