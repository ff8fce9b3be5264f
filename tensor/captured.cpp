#include "tensor/captured.h"

#include <algorithm>
#include <utility>

#include "tensor/device.h"

namespace halfstep {

/// The members are destroyed in reverse order: the graph before the memory that it uses.
struct Captured::Recording {
  Device& device;
  Allocator::Arena arena;
  std::vector<Tensor> inputs;   ///< what the graph reads
  std::vector<Tensor> outputs;  ///< what it writes
  void* graph = nullptr;

  explicit Recording(Device& d) : device(d), arena(d.allocator) {}
  ~Recording() {
    if (graph) device.backend.destroy_graph(graph);
  }
  Recording(const Recording&) = delete;
  Recording& operator=(const Recording&) = delete;

  void record(const Function& function);
};

void Captured::Recording::record(const Function& function) {
  const Allocator::Arena::Use use(arena);
  device.begin_capture();
  try {
    outputs = function(inputs);
  } catch (...) {
    try {
      graph = device.end_capture();  // the destructor drops it
    } catch (...) {                  // the first error is the one to report
    }
    throw;
  }
  graph = device.end_capture();
}

namespace {

Device* device_of(const std::vector<Tensor>& inputs) {
  const auto first = std::find_if(inputs.begin(), inputs.end(), [](const Tensor& t) { return t.defined(); });
  return first == inputs.end() ? nullptr : &first->device();
}

bool alike(const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const Tensor& x, const Tensor& y) {
    if (!x.defined() || !y.defined()) return x.defined() == y.defined();
    return x.shape() == y.shape() && x.dtype() == y.dtype();
  });
}

}  // namespace

Captured::Captured() = default;
Captured::~Captured() = default;
Captured::Captured(Captured&&) noexcept = default;
Captured& Captured::operator=(Captured&&) noexcept = default;

void Captured::reset() {
  recording_.reset();
  warm_.clear();
}

std::vector<Tensor> Captured::operator()(const std::vector<Tensor>& inputs, const Function& function) {
  Device* const device = device_of(inputs);
  if (!device || !device->uses_graphs()) {
    reset();
    return function(inputs);
  }
  if (recording_ && !alike(recording_->inputs, inputs)) reset();
  if (!recording_ && !alike(warm_, inputs)) {
    warm_ = inputs;
    return function(inputs);
  }
  if (!recording_) {
    warm_.clear();
    auto recording = std::make_unique<Recording>(*device);
    for (const Tensor& input : inputs)
      recording->inputs.push_back(input.defined() ? Tensor::empty(input.shape(), {input.dtype(), device})
                                                  : Tensor());
    recording->record(function);
    recording_ = std::move(recording);
  }
  for (size_t i = 0; i < inputs.size(); ++i)
    if (inputs[i].defined()) recording_->inputs[i].copy_(inputs[i].to(*device));
  device->launch_graph(recording_->graph);
  return recording_->outputs;
}

}  // namespace halfstep
