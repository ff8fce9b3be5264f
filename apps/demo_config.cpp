#include "apps/demo_config.h"

namespace halfstep {

Config demo_config() {
  Config config;
  UNetConfig& unet = config.model.unet;
  unet.height = unet.width = 28;
  // Four pixels become one with four channels: 3x3 convolutions then see twice as far at a quarter of the
  // cost.
  unet.space_to_depth = 2;
  unet.channels = 48;
  unet.channel_multipliers = {1, 2};
  unet.num_res_blocks = 1;
  unet.attention_resolutions = {7};
  unet.groups = 8;
  // All shoes of Fashion-MNIST point to the left: mirrored ones would be pictures that the data set does not
  // have.
  config.train.flip = false;
  // Twice the updates of batch 64: after a few minutes that is worth more than quieter gradients.
  config.train.batch_size = 32;
  return config;
}

TrainConfig demo_distillation() {
  TrainConfig train = demo_config().train;
  train.learning_rate = 5e-4;  // a student starts as a good network; larger steps first make it worse
  return train;
}

}  // namespace halfstep
