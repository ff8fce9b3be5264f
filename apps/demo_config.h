// What `halfstep demo` trains: the one place for its choices.
#pragma once

#include "diffusion/config.h"

namespace halfstep {

/// Model and training of the demo's teacher on Fashion-MNIST, chosen for quality per minute on two CPU cores.
/// The numbers of updates are the demo's plan.
Config demo_config();

/// How the demo trains each student.
TrainConfig demo_distillation();

}  // namespace halfstep
