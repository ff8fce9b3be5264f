// halfstep bench: how fast the kernels and whole networks are on this machine, and what is predicted for a
// GPU.
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <memory>
#include <sstream>
#include <thread>

#include "apps/commands.h"
#include "bench/cases.h"
#include "bench/measure.h"
#include "bench/peak.h"
#include "bench/profile.h"
#include "bench/roofline.h"
#include "bench/unfused.h"
#include "tensor/conv_method.h"
#include "tensor/error.h"
#include "tensor/files.h"
#include "tensor/kernel_counts.h"
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
  std::string what;      ///< empty: not given
  std::string roofline;  ///< empty: measure
  double seconds = 0.3, pause = 0;
  int64_t batch_size = 0;
  bool list = false, profile = false, profile_shapes = false, unfused = false;

  void run() const;

 private:
  std::vector<bench::Case> chosen() const;
  /// `table`, or what --unfused makes of it.
  const Backend& composed(const Backend& table) const { return unfused ? bench::unfused(table) : table; }
  Json time(const bench::Case& c, const Backend& table, double peak) const;
  void measure(const std::vector<bench::Case>& cases, Device& device) const;
  Json predict(const bench::Case& c, const Backend& table, const bench::Gpu& gpu,
               const CudaCounters& counters) const;
  void predict(const std::vector<bench::Case>& cases, Device& device) const;
};

std::vector<bench::Case> BenchCommand::chosen() const {
  std::vector<bench::Case> cases;
  // An emulated GPU takes minutes for a network, and hours for the kernels' large arrays.
  const std::string_view wanted = !what.empty() ? what : roofline.empty() ? "all" : "model";
  if (wanted != "model") cases = bench::kernel_cases();
  if (wanted != "kernels") {
    Config config = settings.over({});
    if (batch_size > 0 || !roofline.empty()) config.train.batch_size = std::max<int64_t>(batch_size, 1);
    config.validate();
    require(!unfused || config.train.precision == Precision::f32, "bench",
            "expected --precision f32 with --unfused, whose compositions are of arrays of one dtype, got {}",
            name_of(config.train.precision));
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
Json BenchCommand::time(const bench::Case& c, const Backend& table, double peak) const {
  if (pause > 0) std::this_thread::sleep_for(std::chrono::duration<double>(pause));
  Device device(composed(table));
  bench::Timing timing;
  {
    const std::function<void()> run = c.prepare(device);
    timing = bench::measure([&] { run(), device.synchronize(); }, seconds);
  }
  const double memory = static_cast<double>(device.allocator.peak_bytes());
  device.allocator.trim();

  // What it does, and where the time goes: once more, watched.
  Device watched(composed(bench::profiled(table, profile_shapes)));
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

void BenchCommand::measure(const std::vector<bench::Case>& cases, Device& device) const {
  const double per_thread = bench::peak_gflops(selected_isa()), peak = per_thread * num_threads();
  if (!general.json) {
    fmt::print("{} on {}, {} thread{}, convolutions {}; multiply-add peak {:.1f} GFLOP/s\n", device.name(),
               name_of(selected_isa()), num_threads(), num_threads() == 1 ? "" : "s", name_of(conv_method()),
               peak);
    fmt::print("{:42} {:>10} {:>8} {:>6} {:>8}\n", "", "median ms", "GFLOP/s", "% peak", "MB");
  }
  Json results = Json::array();
  for (const bench::Case& c : cases) results.push_back(time(c, device.backend, peak));
  if (general.json) {
    const Json result{{"device", device.name()},  {"isa", name_of(selected_isa())},
                      {"threads", num_threads()}, {"conv", name_of(conv_method())},
                      {"unfused", unfused},       {"peak_gflops", peak},
                      {"cases", results},         {"max_resident_bytes", max_resident_bytes()}};
    fmt::print("{}\n", result.dump(2));
  }
}

Json seconds_by_bound(const bench::RooflineRow& row) {
  Json json;
  for (const bench::Bound bound : {bench::Bound::compute, bench::Bound::memory, bench::Bound::launch})
    json[std::string(bench::name_of(bound))] = row.by_bound[static_cast<size_t>(bound)];
  return json;
}

Json json_of(const bench::RooflineRow& row) {
  return {{"kernel", row.kernel},
          {"launches", row.launches},
          {"flops", row.operations},
          {"bytes", row.bytes},
          {"predicted_seconds", row.seconds},
          {"seconds_by_bound", seconds_by_bound(row)}};
}

/// The first characters of a text that has no room for more.
std::string cut(const std::string& text, size_t length) {
  return text.size() <= length ? text : text.substr(0, length - 2) + "..";
}

void print_row(const std::string& name, const bench::RooflineRow& row) {
  fmt::print("  {:31} {:>6} {:>9.2f} {:>8.2f} {:>9.1f} {:>8}\n", cut(name, 31), row.launches,
             1e-6 * row.operations, 1e-6 * row.bytes, 1e6 * row.seconds, bench::name_of(row.bound()));
}

/// The kernels of a case, the longest first, and what to read from them.
void print_roofline(const std::string& name, const bench::Roofline& r) {
  constexpr size_t kShown = 15;
  const auto percent = [&](double seconds) { return 100 * seconds / r.total.seconds; };
  fmt::print("{}: predicted {:.3f} ms\n", name, 1e3 * r.total.seconds);
  for (size_t i = 0; i < std::min(kShown, r.rows.size()); ++i) print_row(r.rows[i].kernel, r.rows[i]);
  if (r.rows.size() > kShown) {
    bench::RooflineRow others;
    for (size_t i = kShown; i < r.rows.size(); ++i) others += r.rows[i];
    print_row(fmt::format("{} other kernels", r.rows.size() - kShown), others);
  }
  print_row(r.total.kernel, r.total);
  fmt::print("  Of the time {:.0f} % is bound by compute, {:.0f} % by memory, {:.0f} % by launches.\n",
             percent(r.total.by_bound[0]), percent(r.total.by_bound[1]), percent(r.total.by_bound[2]));
  const size_t largest = std::min<size_t>(3, r.rows.size());
  for (size_t i = 0; i < largest; ++i)
    fmt::print("  {}{} ({:.0f} %){}\n", i == 0 ? "The largest: " : "", cut(r.rows[i].kernel, 50),
               percent(r.rows[i].seconds), i + 1 == largest ? "." : ",");
}

/// Counts one run of a case and prints the prediction.
Json BenchCommand::predict(const bench::Case& c, const Backend& table, const bench::Gpu& gpu,
                           const CudaCounters& counters) const {
  Device device(composed(table));
  {
    const std::function<void()> run = c.prepare(device);
    run();  // what only the first one does is not counted
    counters.start();
    run();
    counters.stop();
  }
  device.allocator.trim();
  const bench::Roofline r = bench::roofline(counters.read(), gpu);
  if (!general.json) {
    print_roofline(c.name, r);
    std::fflush(stdout);
  }
  Json result = json_of(r.total);
  result.erase("kernel");
  result["name"] = c.name;
  result["kernels"] = Json::array();
  for (const bench::RooflineRow& row : r.rows) result["kernels"].push_back(json_of(row));
  return result;
}

void BenchCommand::predict(const std::vector<bench::Case>& cases, Device& device) const {
  const CudaCounters* const counters = device.name() == "cuda" ? probe_cuda().counters : nullptr;
  require(
      counters != nullptr, "bench",
      "expected the emulated GPU for --roofline, which counts what kernels do, got the device '{}'; build "
      "with -Dcuda=emulated and give --device cuda",
      device.name());
  const bench::Gpu& gpu = bench::gpu_by_id(roofline);
  if (!general.json) {
    fmt::print("Predicted for {}{}\nfrom counts of the emulated GPU; nothing is measured.\n", gpu.name,
               unfused ? ", without fused kernels," : "");
    fmt::print("  {:31} {:>6} {:>9} {:>8} {:>9} {:>8}\n", "kernel", "starts", "MFLOP", "MB", "us",
               "bound by");
  }
  Json results = Json::array();
  for (const bench::Case& c : cases) results.push_back(predict(c, device.backend, gpu, *counters));
  if (general.json) {
    const Json result{{"device", device.name()},
                      {"predicted_for", gpu.name},
                      {"roofline", gpu.id},
                      {"unfused", unfused},
                      {"cases", results}};
    fmt::print("{}\n", result.dump(2));
  }
}

/// Makes the emulated GPU, before its first use, one of the size of `gpu`: kernels are chosen and cut by it.
/// What the environment says already stays.
void imitate(const bench::Gpu& gpu) {
  constexpr int kKeep = 0;
  setenv("HALFSTEP_EMULATION_CAPABILITY", std::to_string(gpu.compute_capability).c_str(), kKeep);
  setenv("HALFSTEP_EMULATION_MULTIPROCESSORS", std::to_string(gpu.multiprocessors).c_str(), kKeep);
}

void BenchCommand::run() const {
  if (!roofline.empty()) imitate(bench::gpu_by_id(roofline));
  Device& device = general.apply();
  const std::vector<bench::Case> cases = chosen();
  if (list) {
    for (const bench::Case& c : cases) fmt::print("{}\n", c.name);
  } else if (roofline.empty()) {
    measure(cases, device);
  } else {
    predict(cases, device);
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
         "all, with --roofline model)")
      ->type_name("NAME")
      ->check(one_of({"all", "kernels", "model"}));
  command->settings.add_config_flags(app);
  command->settings.add_precision_flag(app, "Options");
  app.add_option("--batch-size", command->batch_size,
                 "pictures of a step (default: train.batch_size, with --roofline 1)")
      ->type_name("N")
      ->check(whole_number(1));
  CLI::Option* const seconds = app.add_option("--seconds", command->seconds, "for each case (default 0.3)")
                                   ->type_name("S")
                                   ->check(positive_number());
  CLI::Option* const pause =
      app.add_option("--pause", command->pause, "seconds of rest before each case (default 0)")
          ->type_name("S")
          ->check(positive_number());
  CLI::Option* const profile = app.add_flag(
      "--profile", command->profile, "show the entries of the backend that each case spends its time in");
  app.add_flag("--profile-shapes", command->profile_shapes, "tell calls of other shapes apart")
      ->needs("--profile");
  std::vector<std::string> gpus;
  for (const bench::Gpu& gpu : bench::gpus()) gpus.emplace_back(gpu.id);
  app.add_option(
         "--roofline", command->roofline,
         "predict instead of measuring: count what the kernels do on the emulated GPU (--device cuda) and "
         "say how long that takes this GPU at least, kernel by kernel")
      ->type_name("GPU")
      ->check(one_of(gpus))
      ->excludes(seconds)
      ->excludes(pause)
      ->excludes(profile);
  app.add_flag("--unfused", command->unfused,
               "replace fused kernels (group norm, attention, Adam, biases) by compositions of plain ones");
  app.add_flag("--list", command->list, "show the names of the cases, and time nothing");
  command->general.add_to(app);
  app.footer(example("halfstep bench --what model --batch-size 32 --profile"));
  return {&app, [command] { command->run(); }};
}

}  // namespace halfstep
