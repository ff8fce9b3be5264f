#include "diffusion/config.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "diffusion/internal/json.h"
#include "tensor/error.h"
#include "tensor/nearest.h"

namespace halfstep {

namespace {

// The walks below are the only lists of keys: reading, writing and the check for unknown keys use them.

template <class Self, class Visitor>
void unet_fields(Self& c, Visitor&& visit) {
  visit("height", c.height);
  visit("width", c.width);
  visit("in_channels", c.in_channels);
  visit("out_channels", c.out_channels);
  visit("channels", c.channels);
  visit("emb_channels", c.emb_channels);
  visit("channel_multipliers", c.channel_multipliers);
  visit("num_res_blocks", c.num_res_blocks);
  visit("attention_resolutions", c.attention_resolutions);
  visit("num_heads", c.num_heads);
  visit("head_dim", c.head_dim);
  visit("dropout", c.dropout);
  visit("groups", c.groups);
  visit("norm_eps", c.norm_eps);
  visit("logsnr_input", c.logsnr_input);
  visit("logsnr_input_min", c.logsnr_min);
  visit("logsnr_input_max", c.logsnr_max);
  visit("num_classes", c.num_classes);
  visit("resblock_resample", c.resblock_resample);
  visit("space_to_depth", c.space_to_depth);
}

template <class Self, class Visitor>
void model_fields(Self& m, Visitor&& visit) {
  unet_fields(m.unet, visit);
  visit("prediction", m.prediction);
  visit("logsnr_min", m.schedule.logsnr_min);
  visit("logsnr_max", m.schedule.logsnr_max);
}

template <class Self, class Visitor>
void train_fields(Self& t, Visitor&& visit) {
  visit("loss", t.loss);
  visit("batch_size", t.batch_size);
  visit("max_steps", t.max_steps);
  visit("num_train_steps", t.num_train_steps);
  visit("learning_rate", t.learning_rate);
  visit("warmup_steps", t.warmup_steps);
  visit("anneal", t.anneal);
  visit("anneal_shape", t.anneal_shape);
  visit("adam_beta1", t.adam.beta1);
  visit("adam_beta2", t.adam.beta2);
  visit("adam_eps", t.adam.eps);
  visit("weight_decay", t.adam.weight_decay);
  visit("l2", t.adam.l2);
  visit("max_grad_norm", t.adam.max_grad_norm);
  visit("ema_decay", t.ema_decay);
  visit("ema_warmup", t.ema_warmup);
  visit("flip", t.flip);
  visit("micro_batches", t.micro_batches);
  visit("recompute_blocks", t.recompute_blocks);
  visit("precision", t.precision);
  visit("data_threads", t.data_threads);
  visit("seed", t.seed);
  visit("checkpoint_every", t.checkpoint_every);
  visit("keep", t.keep);
  visit("log_every", t.log_every);
  visit("eval_every", t.eval_every);
  visit("eval_samples", t.eval_samples);
  visit("eval_steps", t.eval_steps);
  visit("patience", t.patience);
  visit("min_improvement", t.min_improvement);
  visit("tensorboard", t.tensorboard);
}

template <class Self, class Visitor>
void distill_fields(Self& d, Visitor&& visit) {
  visit("max_steps", d.max_steps);
}

using NumberByStep = std::map<int64_t, int64_t>;

/// Values as JSON sees them: enumerations are names, numbers that are keys are texts.
struct Writer {
  Json& json;
  template <class T>
  void operator()(const char* key, const T& value) const {
    if constexpr (std::is_enum_v<T>) {
      json[key] = std::string(name_of(value));
    } else if constexpr (std::is_same_v<T, NumberByStep>) {
      json[key] = Json::object();
      for (const auto& [num_steps, number] : value) json[key][std::to_string(num_steps)] = number;
    } else {
      json[key] = value;
    }
  }
};

void by_name(const std::string& name, Prediction& value) { value = prediction_by_name(name); }
void by_name(const std::string& name, LossWeight& value) { value = loss_weight_by_name(name); }
void by_name(const std::string& name, EmaWarmup& value) { value = ema_warmup_by_name(name); }
void by_name(const std::string& name, AnnealShape& value) { value = anneal_shape_by_name(name); }
void by_name(const std::string& name, Precision& value) { value = precision_by_name(name); }
void by_name(const std::string& name, LogsnrInput& value) { value = logsnr_input_by_name(name); }

struct Reader {
  const Json& json;
  const std::string& source;
  template <class T>
  void operator()(const char* key, T& value) const {
    if constexpr (std::is_enum_v<T>) {
      std::string name(name_of(value));
      read_field(json, source, key, name);
      try {
        by_name(name, value);
      } catch (const Error& e) {
        fail("config", "{}: '{}': {}", source, key, e.what());
      }
    } else if constexpr (std::is_same_v<T, NumberByStep>) {
      std::map<std::string, int64_t> numbers;
      for (const auto& [num_steps, number] : value) numbers[std::to_string(num_steps)] = number;
      read_field(json, source, key, numbers);
      value.clear();
      for (const auto& [text, number] : numbers) {
        int64_t num_steps = 0;
        const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), num_steps);
        require(error == std::errc() && end == text.data() + text.size(), "config",
                "{}: expected numbers of steps as the keys of '{}', got '{}'", source, key, text);
        value[num_steps] = number;
      }
    } else {
      read_field(json, source, key, value);
    }
  }
};

struct KeyCollector {
  std::vector<std::string>& keys;
  template <class T>
  void operator()(const char* key, const T&) const {
    keys.push_back(key);
  }
};

/// Reads json[section] into the members that `fields` visits.
template <class Fields>
void read_section(const Json& json, const std::string& source, const char* section, Fields fields) {
  const auto it = json.find(section);
  if (it == json.end()) return;
  require(it->is_object(), "config", "{}: expected an object for '{}', got {}", source, section, it->dump());
  std::vector<std::string> keys;
  fields(KeyCollector{keys});
  require_known_keys(*it, fmt::format("{}, section '{}'", source, section), keys);
  fields(Reader{*it, source});
}

}  // namespace

Json parse_json(const std::string& text, const std::string& source) {
  try {
    return Json::parse(text);
  } catch (const nlohmann::json::parse_error& e) {
    fail("config", "{}: expected JSON, got an error at byte {}: {}", source, e.byte, e.what());
  }
}

void require_known_keys(const Json& json, const std::string& source, const std::vector<std::string>& known) {
  require(json.is_object(), "config", "{}: expected a JSON object, got {}", source, json.dump());
  for (const auto& [key, value] : json.items())
    if (std::find(known.begin(), known.end(), key) == known.end())
      fail("config", "{}: unknown key '{}'{}", source, key, did_you_mean(key, known));
}

Json to_json(const Config& config) {
  Json json{{"model", Json::object()}, {"train", Json::object()}, {"distill", Json::object()}};
  model_fields(config.model, Writer{json["model"]});
  train_fields(config.train, Writer{json["train"]});
  distill_fields(config.distill, Writer{json["distill"]});
  return json;
}

void read_json(const Json& json, const std::string& source, Config& config) {
  require_known_keys(json, source, {"model", "train", "distill"});
  read_section(json, source, "model", [&](auto&& visit) { model_fields(config.model, visit); });
  read_section(json, source, "train", [&](auto&& visit) { train_fields(config.train, visit); });
  read_section(json, source, "distill", [&](auto&& visit) { distill_fields(config.distill, visit); });
}

Config config_from_json(const std::string& text, const std::string& source, const Config& base) {
  Config config = base;
  read_json(parse_json(text, source), source, config);
  config.validate();
  return config;
}

std::string config_to_json(const Config& config) { return to_json(config).dump(2) + "\n"; }

void Config::validate() const {
  model.unet.validate();
  const int64_t expected = output_channels(model.prediction, model.unet.in_channels);
  require(model.unet.out_channels == expected, "config",
          "expected out_channels = {} for prediction '{}' of {} image channels, got {}", expected,
          name_of(model.prediction), model.unet.in_channels, model.unet.out_channels);
  require(std::isfinite(model.schedule.logsnr_min) && std::isfinite(model.schedule.logsnr_max) &&
              model.schedule.logsnr_min < model.schedule.logsnr_max,
          "config", "expected logsnr_min < logsnr_max, got {} and {}", model.schedule.logsnr_min,
          model.schedule.logsnr_max);
  const auto at_least = [](const char* key, double value, double low) {
    require(std::isfinite(value) && value >= low, "config", "expected {} >= {}, got {}", key, low, value);
  };
  const auto below_one = [&](const char* key, double value) {
    at_least(key, value, 0);
    require(value < 1, "config", "expected {} < 1, got {}", key, value);
  };
  at_least("batch_size", static_cast<double>(train.batch_size), 1);
  at_least("max_steps", static_cast<double>(train.max_steps), 1);
  at_least("num_train_steps", static_cast<double>(train.num_train_steps), 0);
  at_least("learning_rate", train.learning_rate, 0);
  at_least("warmup_steps", static_cast<double>(train.warmup_steps), 0);
  require(!train.anneal || train.warmup_steps < train.max_steps, "config",
          "expected warmup_steps < max_steps, got {} and {}", train.warmup_steps, train.max_steps);
  below_one("adam_beta1", train.adam.beta1);
  below_one("adam_beta2", train.adam.beta2);
  at_least("adam_eps", train.adam.eps, 0);
  at_least("weight_decay", train.adam.weight_decay, 0);
  at_least("l2", train.adam.l2, 0);
  at_least("max_grad_norm", train.adam.max_grad_norm, 0);
  below_one("ema_decay", train.ema_decay);
  at_least("checkpoint_every", static_cast<double>(train.checkpoint_every), 0);
  at_least("keep", static_cast<double>(train.keep), 0);
  at_least("log_every", static_cast<double>(train.log_every), 1);
  at_least("micro_batches", static_cast<double>(train.micro_batches), 1);
  require(train.batch_size % train.micro_batches == 0, "config",
          "expected a batch_size that micro_batches divides, got {} and {}", train.batch_size,
          train.micro_batches);
  at_least("data_threads", static_cast<double>(train.data_threads), 0);
  at_least("eval_every", static_cast<double>(train.eval_every), 0);
  at_least("eval_samples", static_cast<double>(train.eval_samples), 2);
  at_least("eval_steps", static_cast<double>(train.eval_steps), 1);
  at_least("patience", static_cast<double>(train.patience), 0);
  below_one("min_improvement", train.min_improvement);
  for (const auto& [num_steps, updates] : distill.max_steps)
    require(num_steps >= 1 && updates >= 1, "config",
            "expected numbers of steps and updates >= 1 in distill.max_steps, got {}: {}", num_steps,
            updates);
}

}  // namespace halfstep
