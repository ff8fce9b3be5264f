#include "tensor/conv_method.h"

#include <atomic>
#include <cstdlib>

#include "tensor/error.h"

namespace halfstep {
namespace {

constexpr ConvMethod kAll[] = {ConvMethod::automatic, ConvMethod::direct, ConvMethod::winograd};

std::atomic<ConvMethod>& setting() {
  static std::atomic<ConvMethod> method = [] {
    const char* name = std::getenv("HALFSTEP_CONV");
    return name ? conv_method_by_name(name, "HALFSTEP_CONV") : ConvMethod::automatic;
  }();
  return method;
}

}  // namespace

std::string_view name_of(ConvMethod method) {
  switch (method) {
    case ConvMethod::automatic:
      return "auto";
    case ConvMethod::direct:
      return "direct";
    case ConvMethod::winograd:
      return "winograd";
  }
  fail("conv", "unknown method number {}", static_cast<int>(method));
}

ConvMethod conv_method_by_name(std::string_view name, std::string_view where) {
  for (ConvMethod method : kAll) {
    if (name == name_of(method)) return method;
  }
  fail(where, "expected auto, direct or winograd, got '{}'", name);
}

ConvMethod conv_method() { return setting(); }
void set_conv_method(ConvMethod method) { setting() = method; }

}  // namespace halfstep
