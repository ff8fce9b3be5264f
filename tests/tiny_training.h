// A network, a data set and a comparison for tests of training.
#pragma once

#include <doctest/doctest.h>

#include "diffusion/config.h"
#include "diffusion/idx.h"
#include "nn/module.h"

namespace halfstep::test {

/// A network of a few thousand weights for 8x8 pictures.
inline Config tiny_config() {
  Config config;
  UNetConfig& u = config.model.unet;
  u.height = u.width = 8;
  u.channels = 8;
  u.channel_multipliers = {1, 2};
  u.num_res_blocks = 1;
  u.attention_resolutions = {4};
  u.groups = 4;
  config.train.batch_size = 4;
  config.train.max_steps = 6;
  config.train.log_every = 2;
  config.train.checkpoint_every = 0;
  config.train.ema_decay = 0.5;
  return config;
}

/// 32 pictures of two kinds: bright left or bright right half.
inline Dataset tiny_data() {
  Dataset d{.name = "halves",
            .count = 32,
            .height = 8,
            .width = 8,
            .channels = 1,
            .pixels = {},
            .labels = {},
            .num_classes = 2};
  for (int64_t n = 0; n < d.count; ++n) {
    d.labels.push_back(static_cast<uint8_t>(n % 2));
    for (int y = 0; y < 8; ++y)
      for (int x = 0; x < 8; ++x) d.pixels.push_back((x < 4) == (n % 2 == 0) ? 230 : 20);
  }
  return d;
}

inline void check_equal_bits(const TensorMap& a, const TensorMap& b) {
  REQUIRE(a.size() == b.size());
  for (const auto& entry : a) {
    const std::string& name = entry.first;
    CAPTURE(name);
    REQUIRE(b.contains(name));
    CHECK(entry.second.to_vector<double>() == b.at(name).to_vector<double>());
  }
}

inline bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace halfstep::test
