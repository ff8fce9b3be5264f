#include "tests/golden_runner/runner.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <optional>
#include <set>

#include "tests/golden_runner/torch_ops.h"

namespace halfstep::test {
namespace {

constexpr size_t kColumns = 100;
constexpr size_t kNameWidth = 36;

constexpr const char* kDescription =
    "Runs golden cases: folders with case.json and tensors.safetensors, which hold the numbers of another\n"
    "program. Each case is known by what it says of itself, wherever it lies. docs/golden.md says more.";

constexpr const char* kFooter =
    "One line per case and dtype: error is the one of the tensor that comes nearest to its tolerance, bound\n"
    "that tolerance, share their ratio. The last line is 'N passed, N failed'.\n"
    "Exit codes: 0 all passed; 1 a case failed or there is none; 2 wrong command line.";

/// Shortened from the left: the end of a path says most.
std::string fitted(const std::string& text, size_t width) {
  return text.size() <= width ? text : ".." + text.substr(text.size() - (width - 2));
}

std::string share_text(const Comparison& c) {
  return std::isfinite(c.share) ? fmt::format("{:.2g} %", 100 * c.share) : "-";
}

struct NamedCase {
  std::filesystem::path folder;
  std::string name;  ///< from its root; behind the root's own name where there are several
};

/// Throws Error for a root without cases.
std::vector<NamedCase> named_cases(const std::vector<std::string>& roots) {
  std::vector<NamedCase> cases;
  for (const std::string& root : roots) {
    const std::vector<std::filesystem::path> folders = find_cases(root);
    require(!folders.empty(), "golden",
            "expected folders with case.json and tensors.safetensors in {}, found none", root);
    const std::string top = std::filesystem::canonical(root).filename().string();
    for (const std::filesystem::path& folder : folders) {
      const std::string below = folder.lexically_relative(root).lexically_normal().string();
      const bool is_root = below == "." || below.empty();
      cases.push_back({folder, is_root ? top : roots.size() > 1 ? top + "/" + below : below});
    }
  }
  return cases;
}

std::string listing_of_kinds() {
  std::string text = "Known kinds of cases, in the order in which they are tried:\n";
  for (const Kind& kind : kinds()) text += fmt::format("  {:<18} {}\n", kind.name, kind.covers);
  text += "PyTorch operations:";
  size_t column = kColumns;
  for (const std::string& name : torch_op_names()) {
    if (column + name.size() + 1 > kColumns) {
      text += "\n ";
      column = 1;
    }
    text += " " + name;
    column += name.size() + 1;
  }
  return text + '\n';
}

}  // namespace

bool CaseResult::passed() const {
  return problems.empty() && !comparisons.empty() &&
         std::all_of(comparisons.begin(), comparisons.end(), [](const Comparison& c) { return c.passed(); });
}

const Comparison* CaseResult::worst() const {
  const auto found =
      std::max_element(comparisons.begin(), comparisons.end(),
                       [](const Comparison& a, const Comparison& b) { return a.share < b.share; });
  return found == comparisons.end() ? nullptr : &*found;
}

std::vector<std::filesystem::path> find_cases(const std::filesystem::path& root) {
  namespace fs = std::filesystem;
  std::vector<fs::path> cases;
  std::set<fs::path> visited;
  std::vector<fs::path> open = {root};
  while (!open.empty()) {
    const fs::path folder = open.back();
    open.pop_back();
    if (!visited.insert(fs::canonical(folder)).second) continue;
    bool is_case = false;
    for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
      const fs::path name = entry.path().filename();
      if (name == "case.json" || name == "tensors.safetensors") is_case = true;
      if (entry.is_directory()) open.push_back(entry.path());
    }
    if (is_case) cases.push_back(folder);
  }
  std::sort(cases.begin(), cases.end());
  return cases;
}

CaseResult run_case(const std::filesystem::path& folder, const std::string& name, TensorOptions options) {
  CaseResult result{.name = name, .dtype = options.dtype, .comparisons = {}, .problems = {}};
  std::optional<GoldenCase> golden;
  std::optional<GoldenRun> run;
  try {
    golden.emplace(folder);
    run.emplace(*golden, options);
    kind_of(*golden).run(*run);
    result.problems = run->unfinished();
  } catch (const std::exception& e) {
    result.problems.push_back(e.what());
  }
  if (run) result.comparisons = run->comparisons();
  return result;
}

std::string report(const CaseResult& result, bool verbose) {
  const Comparison* worst = result.worst();
  std::string text = fmt::format("{} {} {:<{}}", result.passed() ? "pass" : "FAIL", name_of(result.dtype),
                                 fitted(result.name, kNameWidth), kNameWidth);
  if (worst != nullptr) {
    text += fmt::format(" {:7.2g} {:7.2g} {:>9}  ", worst->error, worst->bound, share_text(*worst));
    text += fitted(worst->name, kColumns - text.size());
  }
  text += '\n';
  for (const Comparison& c : result.comparisons) {
    if (!verbose && c.passed()) continue;
    std::string line = fmt::format("  {} {:7.2g} {:7.2g} {:>9}  {}", c.passed() ? "pass" : "FAIL", c.error,
                                   c.bound, share_text(c), c.name);
    if (!c.remark.empty()) line += ": " + c.remark;
    text += line + '\n';
  }
  for (const std::string& problem : result.problems) text += fmt::format("  FAIL {}\n", problem);
  return text;
}

int run_golden(const std::vector<std::string>& arguments, std::FILE* out) {
  std::vector<std::string> roots;
  std::string dtype = "both", backend = "cpu";
  bool verbose = false, list_kinds = false;
  CLI::App program(kDescription, "golden");
  program.footer(kFooter);
  program.add_option("DIR", roots,
                     "a case, or a folder with cases in it, at any depth; several may be given");
  program.add_option("--dtype", dtype, "f32, f64 or both (default)")
      ->check(CLI::IsMember({"f32", "f64", "both"}));
  program.add_option("--backend", backend, "device to compute on: cpu (default), reference, cuda");
  program.add_flag("--verbose", verbose, "every tensor of every case");
  program.add_flag("--kinds", list_kinds, "list the known kinds of cases, and end");
  try {
    std::vector<std::string> reversed(arguments.rbegin(), arguments.rend());
    program.parse(reversed);
    if (list_kinds) {
      fmt::print(out, "{}", listing_of_kinds());
      return 0;
    }
    require(!roots.empty(), "golden", "expected a folder DIR; see golden --help");
    for (const std::string& root : roots)
      require(std::filesystem::is_directory(root), "golden", "expected a folder, got {}", root);
  } catch (const CLI::ParseError& e) {
    if (e.get_exit_code() == static_cast<int>(CLI::ExitCodes::Success)) {
      fmt::print(out, "{}", program.help());
      return 0;
    }
    fmt::print(out, "[golden] {}; see golden --help\n", e.what());
    return 2;
  } catch (const Error& e) {
    fmt::print(out, "{}\n", e.what());
    return 2;
  }

  try {
    Device& device = device_by_name(backend);
    std::vector<DType> dtypes = {DType::f64, DType::f32};
    if (dtype != "both") dtypes = {dtype_by_name(dtype)};
    const std::vector<NamedCase> cases = named_cases(roots);
    const auto start = std::chrono::steady_clock::now();
    fmt::print(out, "{:<8} {:<{}} {:>8} {:>7} {:>9}  {}\n", "", "case", kNameWidth - 1, "error", "bound",
               "share", "worst tensor");
    size_t passed = 0, failed = 0, compared = 0;
    for (const NamedCase& each : cases)
      for (const DType type : dtypes) {
        const CaseResult result = run_case(each.folder, each.name, {type, &device});
        (result.passed() ? passed : failed) += 1;
        compared += result.comparisons.size();
        fmt::print(out, "{}", report(result, verbose));
        std::fflush(out);
      }
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    fmt::print(out, "{} cases, {} tensors compared on {} in {:.1f} s\n", cases.size(), compared,
               device.name(), seconds.count());
    fmt::print(out, "{} passed, {} failed\n", passed, failed);
    return failed == 0 ? 0 : 1;
  } catch (const std::exception& e) {
    fmt::print(out, "{}\n0 passed, 1 failed\n", e.what());
    return 1;
  }
}

}  // namespace halfstep::test
