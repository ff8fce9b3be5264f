// halfstep gradcheck: the case table of operations against numeric differences, as a table.
#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <set>

#include "apps/commands.h"
#include "autograd/cases/op_cases.h"
#include "autograd/complex_step.h"
#include "tensor/error.h"
#include "tensor/threads.h"

namespace halfstep {

namespace {

/// The complex step knows formulas of one number: those of the elementwise functions.
std::optional<UnaryOp> formula_of(const std::string& op) {
  for (int k = 0; k < 256; ++k)
    if (name_of(static_cast<UnaryOp>(k)) == op) return static_cast<UnaryOp>(k);
  return std::nullopt;
}

struct GradcheckCommand {
  std::vector<std::string> operations;
  std::string backend = "all", dtype = "all", layout = "all", order = "all", mode = "auto";
  uint64_t seed = 42;
  int threads = 0;
  bool json = false, list = false, verbose = false;

  void run() const;

 private:
  struct Line {
    const OpCase* row;
    std::string backend, dtype, layout, mode;
    std::optional<double> error[2] = {};  ///< worst, of first and second order; absent: not checked
    bool ok = true;
    int64_t kinks = 0, evaluations = 0;
    double seconds = 0;
    std::vector<std::string> messages = {};

    void add(int of_order, const GradcheckReport& report) {
      error[of_order - 1] = std::max(error[of_order - 1].value_or(0), report.worst_error);
      if (std::isnan(report.worst_error)) error[of_order - 1] = report.worst_error;
      ok = ok && report.ok;
      kinks += report.kinks_skipped;
      evaluations += report.evaluations;
      seconds += report.seconds;
      if (!report.ok) messages.push_back(report.message);
    }
  };

  bool wants(const OpCase& c) const {
    return operations.empty() ||
           std::any_of(operations.begin(), operations.end(),
                       [&](const std::string& name) { return name == op_of(c) || name == c.name; });
  }
  bool wants_order(int n) const { return order == "all" || order == std::to_string(n); }

  void print_list() const;
  Line check(const OpCase& c, Device& device, DType of_dtype, InputLayout of_layout) const;
  Line check_formula(const OpCase& c, UnaryOp op) const;
  void print(const Line& line) const;
};

/// `text`, cut to `width` columns.
std::string cut(const std::string& text, size_t width) {
  return text.size() <= width ? text : text.substr(0, width - 2) + "..";
}

std::string format_error(const std::optional<double>& error) {
  return error ? fmt::format("{:.1e}", *error) : "-";
}

void GradcheckCommand::print_list() const {
  Json result = Json::object();
  std::vector<std::string> order_of_table;
  for (const OpCase& c : op_cases()) {
    if (!wants(c)) continue;
    if (!result.contains(op_of(c))) order_of_table.push_back(op_of(c));
    result[op_of(c)].push_back(c.name);
  }
  if (json) {
    fmt::print("{}\n", result.dump(2));
    return;
  }
  for (const std::string& op : order_of_table) {
    fmt::print("{}\n", op);
    for (const Json& name : result[op])
      if (name.get<std::string>() != op) fmt::print("  {}\n", name.get<std::string>());
  }
}

GradcheckCommand::Line GradcheckCommand::check(const OpCase& c, Device& device, DType of_dtype,
                                               InputLayout of_layout) const {
  Line line{.row = &c,
            .backend = std::string(device.name()),
            .dtype = std::string(name_of(of_dtype)),
            .layout = std::string(name_of(of_layout)),
            .mode = "full"};
  std::vector<Variable> inputs;
  for (const Variable& v : make_inputs(c, c.inputs, {of_dtype, &device}, false, seed))
    inputs.emplace_back(with_layout(v.value(), of_layout));
  GradcheckOptions options{.seed = seed};
  if (mode == "full") options.mode = GradcheckMode::full;
  if (mode == "random") options.mode = GradcheckMode::random_direction;
  // Equal values along an axis are where maxima have kinks.
  if (of_layout == InputLayout::expanded) options.on_kink = OnKink::skip;
  bool has_kinks = false;
  for (int n : {1, 2}) {
    // At a kink of the function there is no second derivative, so the first order comes first.
    if (n == 1 ? !wants_order(1) && of_layout != InputLayout::expanded
               : !wants_order(2) || !c.second_order || has_kinks)
      continue;
    options.order = n;
    const GradcheckReport report = gradcheck(c.function, inputs, options);
    if (n == 1) has_kinks = report.kinks_skipped > 0;
    if (!wants_order(n)) continue;
    if (!report.full) line.mode = "random";
    line.add(n, report);
  }
  return line;
}

GradcheckCommand::Line GradcheckCommand::check_formula(const OpCase& c, UnaryOp op) const {
  constexpr int kPoints = 64;
  Line line{.row = &c, .backend = "formula", .dtype = "f64", .layout = "-", .mode = "complex"};
  std::vector<double> points =
      random_uniform({kPoints}, {seed, 0}, 0, {DType::f64, &cpu_device()}).to_vector<double>();
  for (double& x : points) x = c.low + (c.high - c.low) * x;
  // Parameters that every function with parameters takes. Higher derivatives are sums of terms that cancel
  // near their zeros, where no error is small beside the sum itself.
  for (int n : {1, 2})
    if (wants_order(n))
      line.add(n, complex_step_check({.op = op, .derivative = n - 1, .p0 = 1.5, .p1 = 2.5}, points,
                                     n == 1 ? 1e-14 : 1e-11));
  return line;
}

void GradcheckCommand::print(const Line& line) const {
  fmt::print("{:<20} {:<9} {:<5} {:<10} {:<7} {:>8} {:>8} {}\n", cut(line.row->name, 20), line.backend,
             line.dtype, line.layout, line.mode, format_error(line.error[0]), format_error(line.error[1]),
             !line.ok         ? "FAIL"
             : line.kinks > 0 ? "kink"
                              : "ok");
  if (verbose)
    fmt::print("    {}; {} evaluations, {:.1f} ms{}\n", line.row->name, line.evaluations, 1e3 * line.seconds,
               line.kinks > 0 ? fmt::format(", {} kinks", line.kinks) : std::string());
}

void GradcheckCommand::run() const {
  if (list) return print_list();
  if (threads > 0) set_num_threads(threads);
  std::vector<Line> lines;
  const auto done = [&](Line line) {
    if (!json) print(line);
    lines.push_back(std::move(line));
  };
  if (!json)
    fmt::print("{:<20} {:<9} {:<5} {:<10} {:<7} {:>8} {:>8} {}\n", "operation", "backend", "dtype", "layout",
               "mode", "order 1", "order 2", "status");
  std::set<std::string> formulas_done;
  for (const OpCase& c : op_cases()) {
    if (!wants(c)) continue;
    if (mode != "complex")
      for (const char* name : {"reference", "cpu", "cuda"})
        for (DType of_dtype : {DType::f32, DType::f64})
          for (InputLayout of_layout : kInputLayouts)
            if ((backend == name || (backend == "all" && name != std::string_view("cuda"))) &&
                (dtype == "all" || dtype == name_of(of_dtype)) &&
                (layout == "all" || layout == name_of(of_layout)))
              done(check(c, device_by_name(name), of_dtype, of_layout));
    const std::optional<UnaryOp> formula = formula_of(op_of(c));
    if (formula && (mode == "auto" || mode == "complex") && dtype != "f32" &&
        formulas_done.insert(op_of(c)).second)
      done(check_formula(c, *formula));
  }
  const auto failed = std::count_if(lines.begin(), lines.end(), [](const Line& line) { return !line.ok; });
  if (json) {
    Json checks = Json::array();
    for (const Line& line : lines) {
      Json entry{{"operation", op_of(*line.row)},
                 {"case", line.row->name},
                 {"backend", line.backend},
                 {"dtype", line.dtype},
                 {"layout", line.layout},
                 {"mode", line.mode},
                 {"ok", line.ok},
                 {"kinks", line.kinks},
                 {"evaluations", line.evaluations},
                 {"seconds", line.seconds},
                 {"messages", line.messages}};
      // NaN has no JSON form of its own: null, as where an order was not checked, but then ok is false.
      for (int n : {0, 1})
        entry[n == 0 ? "error_order_1" : "error_order_2"] = line.error[n] ? Json(*line.error[n]) : Json();
      checks.push_back(std::move(entry));
    }
    fmt::print("{}\n", Json{{"checks", checks}, {"checked", lines.size()}, {"failed", failed}}.dump(2));
  } else {
    for (const Line& line : lines)
      for (const std::string& message : line.messages)
        fmt::print("\n{}, {}, {}, {}:\n{}\n", line.row->name, line.backend, line.dtype, line.layout, message);
    fmt::print("\n{} of {} checks ok\n", static_cast<int64_t>(lines.size()) - failed, lines.size());
  }
  require(!lines.empty(), "gradcheck",
          "expected something to check, got nothing: only elementwise functions have "
          "formulas for --mode complex, in f64; see --list");
  require(failed == 0, "gradcheck", "{} of {} checks failed; their reports are on stdout", failed,
          lines.size());
}

/// An operation or a case of the table; operations are suggested.
CLI::Validator known_operation() {
  std::vector<std::string> known;
  for (const OpCase& c : op_cases())
    if (std::find(known.begin(), known.end(), op_of(c)) == known.end()) known.push_back(op_of(c));
  return name_for(
      [](const std::string& text) {
        for (const OpCase& c : op_cases())
          if (text == op_of(c) || text == c.name) return;
        fail("gradcheck", "unknown operation '{}' (--list shows all)", text);
      },
      known);
}

}  // namespace

Command add_gradcheck(CLI::App& program) {
  const auto command = std::make_shared<GradcheckCommand>();
  CLI::App& app = *program.add_subcommand(
      "gradcheck",
      "Checks the gradients of operations.\n"
      "Compares the gradient rule of every operation, or of those named, with numeric differences in f64, on "
      "each backend, in each dtype and memory layout, for first and second derivatives, and the formulas of "
      "elementwise functions with the complex step. Errors are relative to the largest element of a "
      "gradient. "
      "Status: ok; FAIL; kink: ok, but at points with different slopes from left and right.");
  app.add_option("OP", command->operations,
                 "operations, such as conv2d, or single cases, such as 'conv2d 1x1'; none: all")
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->check(known_operation());
  app.add_option("--backend", command->backend, "cpu, reference, cuda, or all: the first two (default all)")
      ->type_name("NAME")
      ->check(one_of({"cpu", "reference", "cuda", "all"}));
  app.add_option("--dtype", command->dtype, "f32, f64, or all (default all)")
      ->type_name("NAME")
      ->check(one_of({"f32", "f64", "all"}));
  app.add_option(
         "--layout", command->layout,
         "of the inputs: contiguous, transposed, sliced, expanded (stride 0), flipped (negative strides), or "
         "all (default all)")
      ->type_name("NAME")
      ->check(one_of({"contiguous", "transposed", "sliced", "expanded", "flipped", "all"}));
  app.add_option("--order", command->order, "1: gradients, 2: gradients of gradients, or all (default all)")
      ->type_name("N")
      ->check(one_of({"1", "2", "all"}));
  app.add_option(
         "--mode", command->mode,
         "full: every element of the Jacobian; random: along random directions; complex: formulas by the "
         "complex step; auto: full where it is small, and complex (default auto)")
      ->type_name("NAME")
      ->check(one_of({"auto", "full", "random", "complex"}));
  app.add_option("--seed", command->seed, "of the inputs and directions (default 42)")
      ->type_name("S")
      ->check(whole_number(0));
  app.add_flag("--list", command->list, "show the operations and their cases, and check nothing");
  app.add_flag("--verbose", command->verbose, "full names, numbers of evaluations and times");
  app.add_option("--threads", command->threads, "CPU threads (default: $HALFSTEP_THREADS, or all CPUs)")
      ->type_name("N")
      ->check(whole_number(1, 1024))
      ->group("General");
  app.add_flag("--json", command->json, "print the result as JSON on stdout")->group("General");
  app.footer(example("halfstep gradcheck matmul softmax --dtype f64"));
  return {&app, [command] { command->run(); }};
}

}  // namespace halfstep
