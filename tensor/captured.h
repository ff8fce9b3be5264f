// Work that repeats itself on a device, recorded once and then started as one graph.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "tensor/tensor.h"

namespace halfstep {

/// A function of tensors that is called many times with inputs of the same shapes. On a device with graphs
/// (Device::uses_graphs) the first call runs the function as it is, which also prepares what libraries and
/// the allocator prepare at their first use. The second call records what it does, and from then on a call
/// copies its inputs to where the recorded work reads them and starts that work: to the bit what the function
/// would have done, without its time on the host. Elsewhere each call simply runs the function.
///
/// While it is recorded, the function may depend on nothing that changes from call to call but the contents
/// of its inputs, which are then tensors on the device: a number that it reads on the host keeps the value
/// that it had. It may not copy between host and device, nor wait: these throw Error. It may change tensors
/// that outlive it in place (parameters); their versions are not counted by later calls. An Error while it is
/// recorded leaves nothing recorded; the next call starts afresh.
class Captured {
 public:
  using Function = std::function<std::vector<Tensor>(const std::vector<Tensor>& inputs)>;

  Captured();
  ~Captured();
  Captured(Captured&&) noexcept;
  Captured& operator=(Captured&&) noexcept;

  /// The results of `function`, which must do the same in each call. Their memory belongs to the recorded
  /// work: the next call writes over them. Inputs may be undefined; the first one that is not names the
  /// device, and from others they are copied there. When shapes or dtypes change, or which inputs are
  /// defined, `function` is recorded again.
  std::vector<Tensor> operator()(const std::vector<Tensor>& inputs, const Function& function);

  /// Whether the last call started recorded work.
  bool recorded() const { return recording_ != nullptr; }
  /// Forgets what was recorded, for when the function becomes another, or something that it refers to.
  void reset();

 private:
  struct Recording;

  std::vector<Tensor> warm_;  ///< the inputs of the last call that ran the function, for their shapes
  std::unique_ptr<Recording> recording_;
};

}  // namespace halfstep
