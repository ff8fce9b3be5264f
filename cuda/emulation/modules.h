// The translated files of the CUDA backend: the build writes the list.
#pragma once

#include <vector>

#include "cuda/emulation/module.h"

namespace halfstep::emulation {

const std::vector<const Module*>& all_modules();

}  // namespace halfstep::emulation
