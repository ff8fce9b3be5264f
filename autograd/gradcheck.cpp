#include "autograd/gradcheck.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <limits>
#include <optional>

#include "autograd/internal/differences.h"
#include "autograd/internal/gradcheck_report.h"
#include "autograd/ops.h"
#include "tensor/error.h"

namespace halfstep {

namespace {

using detail::JacobianBlock;
using detail::Slope;
using detail::SlopeKind;

/// Largest number of Jacobian elements that the automatic mode computes in full.
constexpr int64_t kFullJacobianElements = 20000;
/// Rounding errors of a function, in units of eps times its size, that a difference is allowed to show.
constexpr double kRoundings = 8;
/// The same for an analytic gradient whose terms cancel to 0, beside a slope of the function's size.
constexpr double kCancelled = 16;

using Values = std::vector<double>;

double machine_eps(DType dtype) {
  return dtype == DType::f64 ? std::numeric_limits<double>::epsilon()
                             : double{std::numeric_limits<float>::epsilon()};
}

double largest(const Values& v) {
  double m = 0;
  for (double x : v)
    if (std::isfinite(x)) m = std::max(m, std::abs(x));
  return m;
}

double dot(const Values& a, const Values& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

/// The first element whose bits differ, or -1.
int64_t first_difference(const Values& a, const Values& b) {
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i)
    if (std::memcmp(&a[i], &b[i], sizeof(double)) != 0) return static_cast<int64_t>(i);
  return a.size() == b.size() ? -1 : static_cast<int64_t>(std::min(a.size(), b.size()));
}

class Checker {
 public:
  Checker(const MultiFunction& function, const std::vector<Variable>& inputs, const GradcheckOptions& options,
          std::string_view where)
      : function_(function), inputs_(inputs), options_(options), where_(where) {
    require(options.directions > 0, "gradcheck", "expected at least one direction, got {}",
            options.directions);
    for (const Variable& v : inputs) {
      require(v.defined(), "gradcheck", "expected inputs, got an undefined variable");
      values_.push_back(v.value().to_vector<double>());
      double squares = 0, count = 0;
      for (double x : values_.back())
        if (std::isfinite(x)) {
          squares += x * x;
          ++count;
        }
      const double rms = count > 0 ? std::sqrt(squares / count) : 0;
      scale_.push_back(std::isfinite(rms) && rms > 0 ? rms : 1);
    }
  }

  GradcheckReport run() {
    const auto start = std::chrono::steady_clock::now();
    check();
    report_.evaluations = evaluations_;
    report_.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return std::move(report_);
  }

 private:
  struct Output {
    int number;  ///< among the function's results
    Shape shape;
    DType dtype;
    size_t begin, size;  ///< its rows of the Jacobian
  };

  void check() {
    record_outputs();
    if (std::none_of(recorded_.begin(), recorded_.end(), [](const Variable& v) { return v.requires_grad(); }))
      return fail_with(
          "the output does not depend on any input through recorded operations (detached, or not recorded "
          "with record()?)");
    if (options_.check_determinism && !deterministic()) return;
    if (!empty_outputs_have_no_gradient()) return;
    choose_precision();

    int64_t columns = 0;
    for (size_t i = 0; i < inputs_.size(); ++i)
      if (is_full_precision(inputs_[i].dtype())) columns += static_cast<int64_t>(values_[i].size());
    report_.full = options_.mode == GradcheckMode::full ||
                   (options_.mode == GradcheckMode::automatic &&
                    columns * static_cast<int64_t>(std::max<size_t>(rows_, 1)) <= kFullJacobianElements);
    report_.full ? check_full() : check_directions();
    if (!inputs_unchanged()) return;
    detail::finish_report(report_, std::move(failing_), nearest_, where_, options_, recorded_.size());
  }

  // --- the function and its backward -----------------------------------------------------------------------

  /// Leaves with the caller's layout, so that the backward sees it.
  void record_outputs() {
    leaves_.clear();
    wanted_.clear();
    for (const Variable& v : inputs_) {
      leaves_.emplace_back(v.value(), is_full_precision(v.dtype()));
      if (is_full_precision(v.dtype())) wanted_.push_back(leaves_.back());
    }
    require(!wanted_.empty(), "gradcheck", "expected an f32 or f64 input, got none");
    EnableGrad recording;
    recorded_ = function_(leaves_);
    outputs_.clear();
    rows_ = 0;
    for (size_t k = 0; k < recorded_.size(); ++k) {
      require(recorded_[k].defined(), "gradcheck",
              "expected the function to return variables, got an undefined one as result {}", k);
      require(recorded_[k].dtype() != DType::bf16, "gradcheck",
              "expected results of f32 or f64, got bf16 as result {}, too coarse for differences", k);
      if (!is_full_precision(recorded_[k].dtype())) continue;
      const auto size = static_cast<size_t>(recorded_[k].numel());
      outputs_.push_back({static_cast<int>(k), recorded_[k].shape(), recorded_[k].dtype(), rows_, size});
      rows_ += size;
    }
  }

  /// Elements of all checked outputs, one after the other.
  Values flat(const std::vector<Variable>& results) const {
    Values all;
    all.reserve(rows_);
    for (const Output& o : outputs_) {
      const auto number = static_cast<size_t>(o.number);
      if (number >= results.size() || results[number].shape() != o.shape)
        fail("gradcheck", "expected result {} of shape {} for other values of the inputs, too, got {}",
             number, str(o.shape), number < results.size() ? str(results[number].shape()) : "none");
      const Values v = results[number].value().to_vector<double>();
      all.insert(all.end(), v.begin(), v.end());
    }
    return all;
  }

  /// The function at the inputs with `values` in place of input i, on contiguous copies.
  Values evaluate(size_t i, const Values& values) {
    ++evaluations_;
    std::vector<Variable> at = base_;
    at[i] = Variable(Tensor::from(values, inputs_[i].shape(), base_[i].options()));
    NoGrad no_grad;
    return flat(function_(at));
  }

  /// Gradients of <upstream, outputs> with respect to every input; empty for inputs that have none.
  std::vector<Values> gradients(const Values& upstream) const {
    std::vector<Values> all(inputs_.size());
    for (size_t i = 0; i < inputs_.size(); ++i)
      if (leaves_[i].requires_grad()) all[i].assign(values_[i].size(), 0.0);
    for (const Output& o : outputs_) {
      const Variable& y = recorded_[static_cast<size_t>(o.number)];
      const auto first = upstream.begin() + static_cast<std::ptrdiff_t>(o.begin);
      const Values part(first, first + static_cast<std::ptrdiff_t>(o.size));
      const bool idle = o.size > 0 && std::all_of(part.begin(), part.end(), [](double u) { return u == 0; });
      if (idle || !y.requires_grad()) continue;
      const Variable g(Tensor::from(part, o.shape, y.options()));
      const auto found = grad(y, wanted_, g, /*retain_graph=*/true);
      for (size_t i = 0, w = 0; i < inputs_.size(); ++i) {
        if (!leaves_[i].requires_grad()) continue;
        const Values v = found[w++].value().to_vector<double>();
        for (size_t c = 0; c < v.size(); ++c) all[i][c] += v[c];
      }
    }
    return all;
  }

  // --- facts that need no difference -----------------------------------------------------------------------

  bool deterministic() {
    const Values ones(rows_, 1.0);
    const Values values = flat(recorded_);
    const auto first = gradients(ones), again = gradients(ones);
    const auto kept_leaves = leaves_, kept_wanted = wanted_, kept_recorded = recorded_;
    const auto kept_outputs = outputs_;
    record_outputs();
    const bool same_shapes = outputs_.size() == kept_outputs.size() && rows_ == values.size();
    const Values other_values = same_shapes ? flat(recorded_) : Values();
    const auto other = gradients(Values(rows_, 1.0));
    leaves_ = kept_leaves;
    wanted_ = kept_wanted;
    recorded_ = kept_recorded;
    outputs_ = kept_outputs;
    rows_ = values.size();

    const char* advice =
        "the function is not deterministic (is it drawing random numbers without a fixed key, "
        "or summing in an order that changes?)";
    if (const int64_t r = first_difference(values, other_values); r >= 0) {
      report_.deterministic = false;
      fail_with(
          fmt::format("the output differs between two equal calls, first in element {}: {}", r, advice));
      return false;
    }
    for (size_t i = 0; i < inputs_.size(); ++i) {
      const int64_t within = first_difference(first[i], again[i]);
      const int64_t c = within >= 0 ? within : first_difference(first[i], other[i]);
      if (c < 0) continue;
      report_.deterministic = false;
      fail_with(fmt::format("the gradient of {} differs between two equal {}, first in element {}: {}",
                            detail::describe_input(static_cast<int>(i), options_),
                            within >= 0 ? "backward passes through one graph" : "calls", c, advice));
      return false;
    }
    return true;
  }

  bool empty_outputs_have_no_gradient() {
    for (const Output& o : outputs_) {
      const Variable& y = recorded_[static_cast<size_t>(o.number)];
      if (o.size > 0 || !y.requires_grad()) continue;
      for (const Variable& g : grad(y, wanted_, Variable(Tensor::zeros(o.shape, y.options())), true))
        for (double v : g.value().to_vector<double>())
          if (v != 0) {  // NaN differs from 0, too
            fail_with(fmt::format("an output without elements, {}, gives a gradient of {}, not of zero",
                                  str(o.shape), v));
            return false;
          }
    }
    return true;
  }

  bool inputs_unchanged() {
    for (size_t i = 0; i < inputs_.size(); ++i)
      if (const int64_t c = first_difference(values_[i], inputs_[i].value().to_vector<double>()); c >= 0) {
        fail_with(fmt::format(
            "the function or its rule writes into {} (element {} was {:.10g}): work on a clone()",
            detail::describe_input(static_cast<int>(i), options_), c, values_[i][static_cast<size_t>(c)]));
        return false;
      }
    return true;
  }

  // --- differences -----------------------------------------------------------------------------------------

  void set_base(bool f64) {
    base_.clear();
    for (const Variable& v : inputs_)
      base_.emplace_back(is_full_precision(v.dtype()) && f64 ? v.value().to(DType::f64).contiguous()
                                                             : v.value().clone());
  }

  /// f at the point itself, by the copies that differences use; NaN if the function throws for f64 copies.
  std::optional<Values> base_values() {
    NoGrad no_grad;
    const auto results = function_(base_);
    for (const Output& o : outputs_)
      if (results[static_cast<size_t>(o.number)].dtype() == DType::f32)
        difference_eps_ = machine_eps(DType::f32);
    return flat(results);
  }

  void choose_precision() {
    bool f32 = false;
    for (const Variable& v : inputs_) f32 = f32 || v.dtype() == DType::f32;
    for (const Output& o : outputs_) f32 = f32 || o.dtype == DType::f32;
    difference_eps_ = machine_eps(DType::f64);
    bool f64_differences = !f32 || options_.differences != GradcheckDifferences::same;
    set_base(f64_differences);
    if (f64_differences && f32 && options_.differences == GradcheckDifferences::automatic) {
      try {
        at_ = *base_values();
      } catch (const Error&) {  // such as: the function multiplies by f32 weights of its own
        f64_differences = false;
        set_base(false);
      }
    }
    if (!f64_differences) difference_eps_ = machine_eps(DType::f32);
    at_ = *base_values();
    const bool f32_differences = difference_eps_ > machine_eps(DType::f64);
    report_.differences = f32_differences ? DType::f32 : DType::f64;
    relative_ = options_.relative >= 0 ? options_.relative : f32_differences ? 2e-2 : f32 ? 1e-4 : 1e-6;
    floor_fraction_ = f32 ? relative_ : 1e-3 * relative_;
    analytic_eps_ = machine_eps(f32 ? DType::f32 : DType::f64);
  }

  double step_for(size_t i, double size) const {
    if (options_.step > 0) return options_.step;
    return detail::central_step(difference_eps_) * detail::power_of_two_near(std::max(size, scale_[i]));
  }

  double noise(double size, double step) const { return kRoundings * difference_eps_ * size / step; }

  double tolerance(double numeric, double analytic, double floor, double rounding) const {
    const double size = std::max(std::abs(numeric), std::abs(analytic));
    return relative_ * size + (options_.absolute >= 0 ? options_.absolute : floor + rounding);
  }

  detail::LineFunction along_element(size_t i, size_t c) {
    return [this, i, c](double t) {
      Values moved = values_[i];
      moved[c] += t;
      return evaluate(i, moved);
    };
  }

  /// Along `direction`, whose components are in units of the input's rms; the result is projected.
  detail::LineFunction along_direction(size_t i, const Values& direction, const Values& projection) {
    return [this, i, &direction, &projection](double t) {
      Values moved = values_[i];
      for (size_t c = 0; c < moved.size(); ++c) moved[c] += t * scale_[i] * direction[c];
      return Values{dot(evaluate(i, moved), projection)};
    };
  }

  // --- judging ---------------------------------------------------------------------------------------------

  /// Decides about an element whose first difference did not agree. `f`: its own value, `f_all`: the largest
  /// value around it, whose rounding it may share.
  void judge(GradcheckEntry& e, const Slope& slope, double floor, double f, double f_all, double first_step) {
    e.numeric = slope.value;
    e.left = slope.left;
    e.right = slope.right;
    e.error = std::abs(e.numeric - e.analytic);
    const double rounding =
        noise(f, std::max(slope.step, 1e-300)) + std::min(3 * slope.uncertainty, noise(f_all, first_step));
    e.tolerance = tolerance(e.numeric, e.analytic, floor, rounding);
    if (e.error <= e.tolerance) {
      e.finding = GradcheckFinding::none;
      return;
    }
    switch (slope.kind) {
      case SlopeKind::not_finite:
        e.finding = GradcheckFinding::not_finite;
        return;
      case SlopeKind::left_only:
      case SlopeKind::right_only:
        e.finding = GradcheckFinding::domain_edge;
        return;
      case SlopeKind::jump:
        e.finding = GradcheckFinding::jump;
        return;
      case SlopeKind::kink:
        e.finding = GradcheckFinding::kink;
        return;
      case SlopeKind::smooth:
        break;
    }
    // The rule is blamed where at least three steps stand clearly on the other side. Of many estimates that
    // are all noise some agree by chance, so the uncertainty alone is no witness.
    const auto witnesses = std::count_if(slope.differences.begin(), slope.differences.end(),
                                         [&](double d) { return std::abs(d - e.numeric) <= 0.25 * e.error; });
    if (!std::isfinite(e.error))
      e.finding = GradcheckFinding::not_finite;
    else if (witnesses < 3 || e.error <= 4 * slope.uncertainty)
      e.finding = GradcheckFinding::unreliable;
    else
      e.finding = GradcheckFinding::mismatch;
  }

  /// Counts the entry; true if it fails.
  bool settle(GradcheckEntry& e, double gradient_scale) {
    ++report_.checked;
    if (e.finding == GradcheckFinding::jump && options_.order > 1 && options_.on_kink == OnKink::skip) {
      ++report_.kinks_skipped;
      e.finding = GradcheckFinding::none;
      return false;
    }
    if (e.finding == GradcheckFinding::kink && options_.on_kink == OnKink::skip) {
      const double low = std::min(e.left, e.right), high = std::max(e.left, e.right);
      const double slack = e.tolerance + 1e-3 * (high - low);  // one-sided differences are of first order
      if (e.analytic >= low - slack && e.analytic <= high + slack) {
        ++report_.kinks_skipped;
        e.finding = GradcheckFinding::none;
        return false;
      }
    }
    const double relative_error = e.error / gradient_scale;
    if (!std::isnan(report_.worst_error) && !(relative_error <= report_.worst_error))
      report_.worst_error = relative_error;
    if (e.finding != GradcheckFinding::none) {
      failing_.push_back(e);
      return true;
    }
    if (nearest_.input < 0 || e.error * nearest_.tolerance > nearest_.error * e.tolerance) nearest_ = e;
    return false;
  }

  GradcheckEntry entry(size_t i, size_t c, size_t r) const {
    GradcheckEntry e;
    e.input = static_cast<int>(i);
    e.element = static_cast<int64_t>(c);
    e.index = detail::index_of(e.element, inputs_[i].shape());
    for (const Output& o : outputs_)
      if (r >= o.begin && r < o.begin + o.size) {
        e.output = o.number;
        e.output_element = static_cast<int64_t>(r - o.begin);
        e.output_index = detail::index_of(e.output_element, o.shape);
      }
    return e;
  }

  /// Size of the gradient that errors are compared to; where it vanishes, what a slope of this function would
  /// be.
  double gradient_scale(size_t i, double gradient) const {
    const double f = largest(at_);
    if (gradient > noise(f, step_for(i, 0))) return gradient;
    return f > 0 ? f / scale_[i] : 1;
  }

  // --- all elements ----------------------------------------------------------------------------------------

  void check_full() {
    std::vector<JacobianBlock> blocks;
    for (size_t i = 0; i < inputs_.size(); ++i)
      if (leaves_[i].requires_grad()) {
        const size_t n = rows_ * values_[i].size();
        blocks.push_back({static_cast<int>(i), inputs_[i].shape(), rows_, values_[i].size(), Values(n),
                          Values(n), std::vector<bool>(n), std::vector<bool>(n)});
      }
    for (size_t r = 0; r < rows_; ++r) {  // one backward gives one row for all inputs
      Values upstream(rows_, 0.0);
      upstream[r] = 1;
      const auto row = gradients(upstream);
      for (JacobianBlock& b : blocks) {
        const Values& g = row[static_cast<size_t>(b.input)];
        std::copy(g.begin(), g.end(), b.analytic.begin() + static_cast<std::ptrdiff_t>(r * b.columns));
      }
    }
    for (JacobianBlock& b : blocks) check_block(b);
    if (!failing_.empty()) report_.hints = detail::diagnose(blocks, output_shapes(), options_);
  }

  void check_block(JacobianBlock& b) {
    const auto i = static_cast<size_t>(b.input);
    for (size_t c = 0; c < b.columns; ++c) {
      const Values column =
          detail::central_difference(along_element(i, c), step_for(i, std::abs(values_[i][c])));
      for (size_t r = 0; r < rows_; ++r) b.numeric[r * b.columns + c] = column[r];
    }
    const double analytic_size = largest(b.analytic), numeric_size = largest(b.numeric);
    double floor = floor_fraction_ * std::min(analytic_size, numeric_size);
    // Where all differences of an input are rounding, its gradient is 0, and the backward's may be rounding,
    // too: what is left of terms that cancel.
    const double f = largest(at_);
    if (numeric_size <= noise(f, step_for(i, 0))) floor = kCancelled * analytic_eps_ * f / scale_[i];
    const double scale = gradient_scale(i, std::max(analytic_size, numeric_size));
    for (size_t c = 0; c < b.columns; ++c) {
      const double h = step_for(i, std::abs(values_[i][c]));
      std::vector<Slope> slopes;  // examined where a row needs it
      double column_size = 0;
      for (size_t r = 0; r < rows_; ++r)
        column_size = std::max(column_size, std::abs(b.numeric[r * b.columns + c]));
      for (size_t r = 0; r < rows_; ++r) {
        const size_t k = r * b.columns + c;
        GradcheckEntry e = entry(i, c, r);
        e.analytic = b.analytic[k];
        e.numeric = b.numeric[k];
        e.error = std::abs(e.numeric - e.analytic);
        const double rounding = noise(std::abs(at_[r]), h);
        e.tolerance = tolerance(e.numeric, e.analytic, floor, rounding);
        // A difference that drowns in rounding would let anything pass: examined, too, where the column has
        // nothing larger that this element could be a rounding error of.
        const bool drowned = e.error > 0 && options_.absolute < 0 && rounding > 10 * relative_ * column_size;
        if (!(e.error <= e.tolerance) || drowned) {
          if (slopes.empty()) slopes = examine(i, c, h);
          judge(e, slopes[r], floor, std::abs(at_[r]), largest(at_), h);
          b.numeric[k] = e.numeric;
        }
        if (settle(e, scale)) {
          const bool rule =
              e.finding == GradcheckFinding::mismatch || e.finding == GradcheckFinding::not_finite;
          (rule ? b.failing : b.ignored)[k] = true;
        } else if (e.left != e.right && !(e.error <= e.tolerance)) {
          b.ignored[k] = true;  // a skipped kink
        }
      }
    }
  }

  /// Slopes of all outputs along one element. An element that is much smaller than the others of its input
  /// may need steps of its own size, near the edge of a domain: log of a small number.
  std::vector<Slope> examine(size_t i, size_t c, double h) {
    const double x = std::abs(values_[i][c]), smallest = 64 * machine_eps(base_[i].dtype()) * x;
    auto slopes = detail::examine_slopes(along_element(i, c), at_, h, difference_eps_, smallest);
    if (options_.step > 0 || x == 0 || x > scale_[i] / 64) return slopes;
    const double own = detail::central_step(difference_eps_) * detail::power_of_two_near(x);
    const auto finer = detail::examine_slopes(along_element(i, c), at_, own, difference_eps_, smallest);
    for (size_t r = 0; r < slopes.size(); ++r)
      if (!(slopes[r].uncertainty <= finer[r].uncertainty)) slopes[r] = finer[r];
    return slopes;
  }

  // --- random directions -----------------------------------------------------------------------------------

  void check_directions() {
    if (rows_ == 0) return;
    for (size_t i = 0; i < inputs_.size(); ++i)
      if (leaves_[i].requires_grad() && !values_[i].empty()) check_input_along_directions(i);
  }

  void check_input_along_directions(size_t i) {
    const size_t columns = values_[i].size();
    Values analytic, numeric;
    bool failed = false;
    for (int d = 0; d < options_.directions; ++d) {
      const uint64_t stream = 2 * (static_cast<uint64_t>(d) + static_cast<uint64_t>(options_.directions) * i);
      const Values projection = normals(rows_, stream), direction = normals(columns, stream + 1);
      const Values g = gradients(projection)[i];
      GradcheckEntry e;
      e.input = static_cast<int>(i);
      e.direction = d;
      e.analytic = dot(g, direction) * scale_[i];
      const double length = std::sqrt(dot(g, g)) * scale_[i];
      const auto line = along_direction(i, direction, projection);
      const double h = options_.step > 0 ? options_.step / scale_[i] : detail::central_step(difference_eps_);
      e.numeric = detail::central_difference(line, h)[0];
      e.error = std::abs(e.numeric - e.analytic);
      double squares = 0;
      for (size_t r = 0; r < rows_; ++r) squares += at_[r] * projection[r] * at_[r] * projection[r];
      const double f = std::sqrt(squares), rounding = noise(f, h);
      double floor = std::isfinite(length) ? floor_fraction_ * std::min(length, 10 * std::abs(e.numeric)) : 0;
      if (std::abs(e.numeric) <= rounding) floor = std::max(floor, kCancelled * analytic_eps_ * f);
      e.tolerance = tolerance(e.numeric, e.analytic, floor, rounding);
      const bool drowned = e.error > 0 && options_.absolute < 0 &&
                           rounding > 10 * relative_ * std::max(std::abs(e.numeric), std::abs(e.analytic));
      if (!(e.error <= e.tolerance) || drowned) {
        const double smallest = 64 * machine_eps(base_[i].dtype());
        const Values here{dot(at_, projection)};
        judge(e, detail::examine_slopes(line, here, h, difference_eps_, smallest)[0], floor, f, f, h);
      }
      analytic.push_back(e.analytic);
      numeric.push_back(e.numeric);
      const double scale = std::max({std::isfinite(length) ? length : 0, std::abs(e.numeric), 0.0});
      const double f_scale = f > 0 ? f : 1;
      if (settle(e, scale > rounding ? scale : f_scale)) {
        failed = true;
        trace(failing_.back(), i, direction, projection, h);
      }
    }
    if (failed) {
      const auto hints = detail::diagnose_directions(static_cast<int>(i), analytic, numeric,
                                                     inputs_[i].shape(), output_shapes(), options_);
      report_.hints.insert(report_.hints.end(), hints.begin(), hints.end());
    }
  }

  /// Follows a failing direction to one element: of the two halves of the direction, and then of the
  /// projection, the one with the larger error is kept. Costs about 4 log2(inputs) evaluations and 2
  /// log2(outputs) backwards. What is found replaces the entry if it fails by itself.
  void trace(GradcheckEntry& found, size_t i, const Values& direction, const Values& projection, double h) {
    const auto larger = [](double a, double b) { return !(std::abs(a) <= std::abs(b)); };
    const Values g = gradients(projection)[i];
    size_t begin = 0, end = values_[i].size();
    const auto input_error = [&](size_t from, size_t to) {
      Values part(direction.size(), 0.0);
      double analytic = 0;
      for (size_t c = from; c < to; ++c) {
        part[c] = direction[c];
        analytic += g[c] * direction[c] * scale_[i];
      }
      return detail::central_difference(along_direction(i, part, projection), h)[0] - analytic;
    };
    while (end - begin > 1) {
      const size_t middle = (begin + end) / 2;
      larger(input_error(begin, middle), input_error(middle, end)) ? end = middle : begin = middle;
    }
    const size_t c = begin;
    const double step = step_for(i, std::abs(values_[i][c]));
    const Values column = detail::central_difference(along_element(i, c), step);
    begin = 0;
    end = rows_;
    const auto output_error = [&](size_t from, size_t to) {
      Values part(rows_, 0.0);
      double slope = 0;
      for (size_t r = from; r < to; ++r) {
        part[r] = projection[r];
        slope += projection[r] * column[r];
      }
      return slope - gradients(part)[i][c];
    };
    while (end - begin > 1) {
      const size_t middle = (begin + end) / 2;
      larger(output_error(begin, middle), output_error(middle, end)) ? end = middle : begin = middle;
    }
    GradcheckEntry e = entry(i, c, begin);
    e.direction = found.direction;
    Values upstream(rows_, 0.0);
    upstream[begin] = 1;
    e.analytic = gradients(upstream)[i][c];
    const double smallest = 64 * machine_eps(base_[i].dtype()) * std::abs(values_[i][c]);
    const auto slopes = detail::examine_slopes(along_element(i, c), at_, step, difference_eps_, smallest);
    judge(e, slopes[begin], 0, std::abs(at_[begin]), largest(at_), step);
    if (e.finding != GradcheckFinding::none) found = e;
  }

  Values normals(size_t n, uint64_t stream) const {
    return random_normal({static_cast<int64_t>(n)}, {options_.seed, stream}, 0, {DType::f64, &cpu_device()})
        .to_vector<double>();
  }

  std::vector<Shape> output_shapes() const {
    std::vector<Shape> shapes;
    for (const Output& o : outputs_) shapes.push_back(o.shape);
    return shapes;
  }

  void fail_with(const std::string& message) {
    report_.ok = false;
    report_.message = fmt::format("[{}] {}", where_, message);
  }

  const MultiFunction& function_;
  const std::vector<Variable>& inputs_;
  const GradcheckOptions& options_;
  std::string where_;
  std::vector<Values> values_;  ///< of the inputs, on the host
  Values scale_;                ///< rms of each input; 1 for zeros
  std::vector<Variable> leaves_, wanted_, recorded_, base_;
  std::vector<Output> outputs_;
  size_t rows_ = 0;
  Values at_;  ///< the outputs at the inputs, as differences see them
  double difference_eps_ = 0, relative_ = 0, floor_fraction_ = 0, analytic_eps_ = 0;
  std::vector<GradcheckEntry> failing_;
  GradcheckEntry nearest_;
  int64_t evaluations_ = 0;
  GradcheckReport report_;
};

/// The function that gives the gradients of `function` with respect to its first `num_inputs` arguments, from
/// these and one upstream gradient for every result.
MultiFunction gradient_of(MultiFunction function, size_t num_inputs) {
  return [function = std::move(function), num_inputs](const std::vector<Variable>& all) {
    EnableGrad recording;
    std::vector<Variable> leaves, wanted;  // differences run without recording and hand in plain values
    for (size_t i = 0; i < num_inputs; ++i) {
      const Variable& v = all[i];
      leaves.push_back(v.requires_grad() || !is_full_precision(v.dtype()) ? v : Variable(v.value(), true));
      if (leaves.back().requires_grad()) wanted.push_back(leaves.back());
    }
    const std::vector<Variable> results = function(leaves);
    std::vector<Variable> total;
    for (size_t k = 0, u = num_inputs; k < results.size(); ++k) {
      if (!is_full_precision(results[k].dtype())) continue;
      const Variable& upstream = all[u++];
      if (!results[k].requires_grad()) continue;
      const auto part = grad(results[k], wanted, upstream, true, true);
      for (size_t i = 0; i < part.size(); ++i)
        i < total.size() ? void(total[i] = add(total[i], part[i])) : total.push_back(part[i]);
    }
    if (total.empty())
      for (const Variable& v : wanted) total.emplace_back(Tensor::zeros(v.shape(), v.options()));
    return total;
  };
}

}  // namespace

GradcheckReport gradcheck(const MultiFunction& function, const std::vector<Variable>& inputs,
                          const GradcheckOptions& options) {
  require(options.order >= 1, "gradcheck", "expected an order of at least 1, got {}", options.order);
  require(!inputs.empty(), "gradcheck", "expected at least one input, got none");
  MultiFunction derivative = function;
  std::vector<Variable> all = inputs;
  GradcheckOptions with_names = options;
  for (int order = 2; order <= options.order; ++order) {
    std::vector<Variable> results;
    {
      NoGrad no_grad;
      results = derivative(all);
    }
    with_names.input_names.resize(all.size());
    derivative = gradient_of(derivative, all.size());
    for (const Variable& y : results) {
      if (!is_full_precision(y.dtype())) continue;
      const uint64_t stream = (1u << 20) + all.size();
      all.emplace_back(random_normal(y.shape(), {options.seed, stream}, 0, y.options()));
      with_names.input_names.push_back("upstream");
    }
  }
  const std::string where = options.order == 1   ? "gradcheck"
                            : options.order == 2 ? "gradgradcheck"
                                                 : fmt::format("gradcheck of order {}", options.order);
  return Checker(derivative, all, with_names, where).run();
}

GradcheckReport gradcheck(const DifferentiableFunction& function, const std::vector<Variable>& inputs,
                          const GradcheckOptions& options) {
  return gradcheck(
      MultiFunction([&](const std::vector<Variable>& in) { return std::vector<Variable>{function(in)}; }),
      inputs, options);
}

GradcheckReport gradgradcheck(const MultiFunction& function, const std::vector<Variable>& inputs,
                              const GradcheckOptions& options) {
  GradcheckOptions second = options;
  second.order = 2;
  return gradcheck(function, inputs, second);
}

GradcheckReport gradgradcheck(const DifferentiableFunction& function, const std::vector<Variable>& inputs,
                              const GradcheckOptions& options) {
  GradcheckOptions second = options;
  second.order = 2;
  return gradcheck(function, inputs, second);
}

}  // namespace halfstep
