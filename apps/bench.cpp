// halfstep bench: how fast the kernels and whole networks are on this machine.
#include <cstdio>
#include <limits>
#include <memory>
#include <sstream>
#include <thread>

#include "apps/commands.h"
#include "bench/cases.h"
#include "bench/measure.h"
#include "bench/peak.h"
#include "bench/profile.h"
#include "tensor/conv_method.h"
#include "tensor/error.h"
#include "tensor/files.h"
#include "tensor/threads.h"

namespace halfstep {

namespace {

/// Largest resident memory of this process so far. (getrusage would count that of the process which started
/// it.)
double max_resident_bytes() {
  std::istringstream status(read_file("/proc/self/status"));
  for (std::string line; std::getline(status, line);) {
    double kilobytes = 0;
    if (std::sscanf(line.c_str(), "VmHWM: %lf kB", &kilobytes) == 1) return 1024 * kilobytes;
  }
  return std::numeric_limits<double>::quiet_NaN();
}

struct BenchCommand {
  GeneralFlags general;
  SettingFlags settings;
  std::vector<std::string> filters;
  std::string what = "all";
  double seconds = 0.3, pause = 0;
  int64_t batch_size = 0;
  bool list = false, profile = false, profile_shapes = false;

  void run() const;

 private:
  std::vector<bench::Case> chosen() const;
  Json time(const bench::Case& c, Device& device, double peak) const;
};

std::vector<bench::Case> BenchCommand::chosen() const {
  std::vector<bench::Case> cases;
  if (what != "model") cases = bench::kernel_cases();
  if (what != "kernels") {
    Config config = settings.over({});
    if (batch_size > 0) config.train.batch_size = batch_size;
    config.validate();
    const std::vector<bench::Case> models = bench::model_cases(config);
    cases.insert(cases.end(), models.begin(), models.end());
  }
  std::erase_if(cases, [this](const bench::Case& c) {
    return !filters.empty() && std::none_of(filters.begin(), filters.end(), [&](const std::string& filter) {
      return c.name.find(filter) != std::string::npos;
    });
  });
  require(!cases.empty(), "bench", "no case has such a name; halfstep bench --list shows them");
  return cases;
}

/// Times a case and prints its line.
Json BenchCommand::time(const bench::Case& c, Device& device, double peak) const {
  if (pause > 0) std::this_thread::sleep_for(std::chrono::duration<double>(pause));
  device.allocator.trim();
  device.allocator.reset_peak();
  bench::Timing timing;
  {
    const std::function<void()> run = c.prepare(device);
    timing = bench::measure([&] { run(), device.synchronize(); }, seconds);
  }
  const double memory = static_cast<double>(device.allocator.peak_bytes());
  device.allocator.trim();

  // What it does, and where the time goes: once more, watched.
  Device watched(bench::profiled(device.backend, profile_shapes));
  {
    const std::function<void()> run = c.prepare(watched);
    if (profile) run();
    bench::reset_profile();
    run();
  }
  watched.allocator.trim();
  bench::Work work;
  Json entries = Json::array();
  const std::vector<bench::ProfileRow> rows = bench::profile();
  for (const bench::ProfileRow& row : rows) {
    work += row.work;
    entries.push_back({{"entry", row.entry},
                       {"shapes", row.shapes},
                       {"calls", row.calls},
                       {"seconds", row.seconds},
                       {"flops", row.work.flops},
                       {"bytes", row.work.bytes}});
  }
  const double gflops = 1e-9 * work.flops / timing.median;
  if (!general.json) {
    fmt::print("{:42} {:>10.3f}", c.name, 1e3 * timing.median);
    if (work.flops > 0) {
      fmt::print(" {:>8.1f} {:>6.1f}", gflops, 100 * gflops / peak);
    } else {
      fmt::print(" {:>8} {:>6}", "-", "-");
    }
    fmt::print(" {:>8.1f}\n", 1e-6 * memory);
    if (profile) {
      for (const bench::ProfileRow& row : rows) {
        fmt::print("  {:22} {:>5} calls {:>9.3f} ms {:>8.1f} GFLOP/s {:>7.1f} GB/s\n", row.entry, row.calls,
                   1e3 * row.seconds, 1e-9 * row.work.flops / row.seconds,
                   1e-9 * row.work.bytes / row.seconds);
        if (profile_shapes) fmt::print("    {}\n", row.shapes);
      }
    }
    std::fflush(stdout);
  }
  Json result{{"name", c.name},
              {"median_seconds", timing.median},
              {"low_seconds", timing.low},
              {"high_seconds", timing.high},
              {"runs", timing.runs},
              {"flops", work.flops},
              {"bytes", work.bytes},
              {"gflops", gflops},
              {"fraction_of_peak", gflops / peak},
              {"peak_bytes", memory}};
  if (profile) result["profile"] = entries;
  return result;
}

void BenchCommand::run() const {
  Device& device = general.apply();
  const std::vector<bench::Case> cases = chosen();
  if (list) {
    for (const bench::Case& c : cases) fmt::print("{}\n", c.name);
    return;
  }
  const double per_thread = bench::peak_gflops(selected_isa()), peak = per_thread * num_threads();
  if (!general.json) {
    fmt::print("{} on {}, {} thread{}, convolutions {}; multiply-add peak {:.1f} GFLOP/s\n", device.name(),
               name_of(selected_isa()), num_threads(), num_threads() == 1 ? "" : "s", name_of(conv_method()),
               peak);
    fmt::print("{:42} {:>10} {:>8} {:>6} {:>8}\n", "", "median ms", "GFLOP/s", "% peak", "MB");
  }
  Json results = Json::array();
  for (const bench::Case& c : cases) results.push_back(time(c, device, peak));
  if (general.json) {
    const Json result{{"device", device.name()},
                      {"isa", name_of(selected_isa())},
                      {"threads", num_threads()},
                      {"conv", name_of(conv_method())},
                      {"peak_gflops", peak},
                      {"cases", results},
                      {"max_resident_bytes", max_resident_bytes()}};
    fmt::print("{}\n", result.dump(2));
  }
}

}  // namespace

Command add_bench(CLI::App& program) {
  const auto command = std::make_shared<BenchCommand>();
  CLI::App& app = *program.add_subcommand(
      "bench",
      "Times kernels and whole networks.\n"
      "Each case runs once to warm up, then for --seconds; the median counts. GFLOP/s are those of the "
      "definition (of a convolution, the direct sum), to be compared with the multiply-add peak of this "
      "machine's cores, measured at the start; above 100 % are methods that need fewer operations. MB is the "
      "peak memory of the tensors.");
  app.add_option("FILTER", command->filters, "cases whose name contains one of these words; none: all")
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  app.add_option(
         "--what", command->what,
         "kernels: entries of the backend at the shapes of UNets; model: calls of the network that "
         "--config and --set describe, and steps of training, distillation and sampling; all (default "
         "all)")
      ->type_name("NAME")
      ->check(one_of({"all", "kernels", "model"}));
  command->settings.add_config_flags(app);
  command->settings.add_precision_flag(app, "Options");
  app.add_option("--batch-size", command->batch_size, "pictures of a step (default: train.batch_size)")
      ->type_name("N")
      ->check(whole_number(1));
  app.add_option("--seconds", command->seconds, "for each case (default 0.3)")
      ->type_name("S")
      ->check(positive_number());
  app.add_option("--pause", command->pause, "seconds of rest before each case (default 0)")
      ->type_name("S")
      ->check(positive_number());
  app.add_flag("--profile", command->profile,
               "show the entries of the backend that each case spends its time in");
  app.add_flag("--profile-shapes", command->profile_shapes, "tell calls of other shapes apart")
      ->needs("--profile");
  app.add_flag("--list", command->list, "show the names of the cases, and time nothing");
  command->general.add_to(app);
  app.footer(example("halfstep bench --what model --batch-size 32 --profile"));
  return {&app, [command] { command->run(); }};
}

}  // namespace halfstep
