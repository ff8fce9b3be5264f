#include "autograd/gradcheck.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "autograd/ops.h"
#include "tensor/error.h"

namespace halfstep {

namespace {

/// Largest number of Jacobian elements that the automatic mode computes in full.
constexpr int64_t kFullJacobianElements = 20000;

class Checker {
 public:
  Checker(const DifferentiableFunction& function, const std::vector<Variable>& inputs,
          const GradcheckOptions& options)
      : function_(function), inputs_(inputs), options_(options) {
    DType coarsest = DType::f64;
    for (const Variable& v : inputs) {
      require(v.defined(), "gradcheck", "expected inputs, got an undefined variable");
      values_.push_back(v.value().to_vector<double>());
      if (v.dtype() == DType::f32) coarsest = DType::f32;
    }
    const bool f64 = coarsest == DType::f64;
    step_ = options.step > 0 ? options.step
                             : std::cbrt(f64 ? std::numeric_limits<double>::epsilon()
                                             : double{std::numeric_limits<float>::epsilon()});
    relative_ = options.relative >= 0 ? options.relative : (f64 ? 1e-6 : 2e-2);
    absolute_ = options.absolute >= 0 ? options.absolute : (f64 ? 1e-6 : 2e-2);
  }

  GradcheckReport run() {
    const Variable output = analytic_forward();
    if (!output.requires_grad())
      return failure(fmt::format("the output does not depend on any input through recorded operations"));
    if (options_.check_determinism && !deterministic(output)) return report_;

    int64_t input_elements = 0;
    for (const auto& v : values_) input_elements += static_cast<int64_t>(v.size());
    const bool full = options_.mode == GradcheckMode::full ||
                      (options_.mode == GradcheckMode::automatic &&
                       input_elements * std::max<int64_t>(output.numel(), 1) <= kFullJacobianElements);
    for (size_t i = 0; i < inputs_.size(); ++i) {
      if (!is_floating(inputs_[i].dtype())) continue;
      if (full ? !check_full(output, i) : !check_directions(output, i)) return report_;
    }
    return report_;
  }

 private:
  /// Leaves with the caller's layout, so that the backward sees it.
  Variable analytic_forward() {
    leaves_.clear();
    for (const Variable& v : inputs_) leaves_.emplace_back(v.value(), is_floating(v.dtype()));
    EnableGrad recording;
    return function_(leaves_);
  }

  /// f at the inputs, with input `i` replaced by `values`, on contiguous copies.
  std::vector<double> forward_at(size_t i, const std::vector<double>& values) const {
    std::vector<Variable> at;
    for (size_t j = 0; j < inputs_.size(); ++j)
      at.emplace_back(Tensor::from(j == i ? values : values_[j], inputs_[j].shape(), inputs_[j].options()));
    NoGrad no_grad;
    return function_(at).value().to_vector<double>();
  }

  std::vector<double> backward_from(const Variable& output, size_t i,
                                    const std::vector<double>& upstream) const {
    const Variable g(Tensor::from(upstream, output.shape(), output.options()));
    return grad(output, {leaves_[i]}, g, /*retain_graph=*/true)[0].value().to_vector<double>();
  }

  bool deterministic(const Variable& output) {
    const std::vector<double> ones(static_cast<size_t>(output.numel()), 1.0);
    const auto gradients = [&](const Variable& out) {
      std::vector<std::vector<double>> all{out.value().to_vector<double>()};
      for (size_t i = 0; i < inputs_.size(); ++i)
        if (leaves_[i].requires_grad()) all.push_back(backward_from(out, i, ones));
      return all;
    };
    const auto first = gradients(output);
    const std::vector<Variable> kept = leaves_;
    const auto second = gradients(analytic_forward());
    leaves_ = kept;
    for (size_t i = 0; i < first.size(); ++i)
      if (std::memcmp(first[i].data(), second[i].data(), first[i].size() * sizeof(double)) != 0) {
        failure(fmt::format(
            "{} differs between two equal calls: the function is not deterministic (is it drawing "
            "random numbers without a fixed key?)",
            i == 0 ? std::string("the output") : fmt::format("the gradient of input {}", i - 1)));
        return false;
      }
    return true;
  }

  bool check_full(const Variable& output, size_t i) {
    const size_t rows = static_cast<size_t>(output.numel()), columns = values_[i].size();
    std::vector<std::vector<double>> analytic(rows);  // one backward per output element
    for (size_t r = 0; r < rows; ++r) {
      std::vector<double> upstream(rows, 0.0);
      upstream[r] = 1;
      analytic[r] = backward_from(output, i, upstream);
    }
    for (size_t c = 0; c < columns; ++c) {
      std::vector<double> direction(columns, 0.0);
      direction[c] = 1;
      const Slopes slopes = slopes_along(i, direction, step_ * std::max(1.0, std::abs(values_[i][c])));
      for (size_t r = 0; r < rows; ++r) {
        const double scale = std::max(std::abs(slopes.at[r]), 1.0);
        if (!compare(i, static_cast<int64_t>(c), slopes.central[r], analytic[r][c], slopes.left[r],
                     slopes.right[r], scale, fmt::format("input {} element {}, output element {}", i, c, r)))
          return false;
      }
    }
    return true;
  }

  bool check_directions(const Variable& output, size_t i) {
    const size_t rows = static_cast<size_t>(output.numel()), columns = values_[i].size();
    if (rows == 0 || columns == 0) return true;
    for (int d = 0; d < options_.directions; ++d) {
      const uint64_t stream = 2 * (static_cast<uint64_t>(d) + static_cast<uint64_t>(options_.directions) * i);
      const auto projection = unit_vector(rows, stream), direction = unit_vector(columns, stream + 1);
      // Unit vectors have tiny components; scale to components of order 1 so that rounding stays relative to
      // x.
      const double length = std::sqrt(static_cast<double>(columns));
      const Slopes slopes = slopes_along(i, direction, step_ * length);
      const auto dot = [&](const std::vector<double>& v) {
        double sum = 0;
        for (size_t r = 0; r < rows; ++r) sum += v[r] * projection[r];
        return sum;
      };
      const auto gradient = backward_from(output, i, projection);
      double analytic = 0, norm = 0;
      for (size_t c = 0; c < columns; ++c) {
        analytic += gradient[c] * direction[c];
        norm += gradient[c] * gradient[c];
      }
      // The slope has the size of the gradient's rms, however small that is; below it only rounding of f
      // remains.
      const double scale = std::sqrt(norm) / length + 1e-4 * std::max(1.0, std::abs(dot(slopes.at)));
      if (!compare(i, -1, dot(slopes.central), analytic, dot(slopes.left), dot(slopes.right), scale,
                   fmt::format("input {} along random direction {}", i, d)))
        return false;
    }
    return true;
  }

  struct Slopes {
    std::vector<double> at, left, right, central;  ///< f itself, and its one-sided and central differences
  };

  /// Differences of every output element along a direction of input i. The step that counts is the one that
  /// the input's precision really took.
  Slopes slopes_along(size_t i, const std::vector<double>& direction, double h) const {
    std::vector<double> plus = values_[i], minus = values_[i];
    for (size_t c = 0; c < direction.size(); ++c) {
      plus[c] += h * direction[c];
      minus[c] -= h * direction[c];
    }
    Slopes s{forward_at(i, values_[i]), forward_at(i, minus), forward_at(i, plus), {}};
    s.central = s.at;
    for (size_t r = 0; r < s.at.size(); ++r) {
      s.central[r] = (s.right[r] - s.left[r]) / (2 * h);
      const double f = s.at[r];
      s.left[r] = (f - s.left[r]) / h;
      s.right[r] = (s.right[r] - f) / h;
    }
    return s;
  }

  std::vector<double> unit_vector(size_t n, uint64_t stream) const {
    auto v = random_normal({static_cast<int64_t>(n)}, {options_.seed, stream}, 0, {DType::f64, &cpu_device()})
                 .to_vector<double>();
    double norm = 0;
    for (double x : v) norm += x * x;
    for (double& x : v) x /= std::sqrt(norm);
    return v;
  }

  /// `scale`: magnitude of f, because rounding of f limits what a difference can resolve.
  bool compare(size_t input, int64_t element, double numeric, double analytic, double left, double right,
               double scale, const std::string& where) {
    const double error = std::abs(numeric - analytic), size = std::max(std::abs(numeric), std::abs(analytic));
    const double relative_error = error / std::max(1.0, size);
    if (!(relative_error <= report_.worst_error)) {
      report_.worst_error = relative_error;
      report_.input = static_cast<int>(input);
      report_.element = element;
      report_.numeric = numeric;
      report_.analytic = analytic;
    }
    if (error <= absolute_ * scale + relative_ * size) return true;
    // At a kink the one-sided slopes differ by far more than the curvature times the step explains.
    report_.kink = std::abs(left - right) > 1e-2 * std::max({std::abs(left), std::abs(right), 1e-3});
    failure(fmt::format(
        "{}: numeric {:.10g}, analytic {:.10g}, error {:.3g}{}", where, numeric, analytic, error,
        report_.kink ? fmt::format("; the function has a kink there (slope {:.6g} from the left, {:.6g} "
                                   "from the right): check at another point",
                                   left, right)
        : std::isnan(error) ? std::string("; NaN never passes")
                            : std::string()));
    return false;
  }

  GradcheckReport failure(std::string message) {
    report_.ok = false;
    report_.message = "[gradcheck] " + std::move(message);
    return report_;
  }

  const DifferentiableFunction& function_;
  const std::vector<Variable>& inputs_;
  GradcheckOptions options_;
  std::vector<std::vector<double>> values_;  ///< of the inputs, on the host
  std::vector<Variable> leaves_;
  double step_, relative_, absolute_;
  GradcheckReport report_;
};

}  // namespace

GradcheckReport gradcheck(const DifferentiableFunction& function, const std::vector<Variable>& inputs,
                          const GradcheckOptions& options) {
  return Checker(function, inputs, options).run();
}

GradcheckReport gradgradcheck(const DifferentiableFunction& function, const std::vector<Variable>& inputs,
                              const GradcheckOptions& options) {
  require(!inputs.empty(), "gradgradcheck", "expected at least one input, got none");
  Shape output_shape;
  {
    NoGrad no_grad;
    output_shape = function(inputs).shape();
  }
  // The gradients of all inputs, flattened into one vector, as a function of the inputs and the upstream
  // gradient.
  const DifferentiableFunction gradients = [&](const std::vector<Variable>& all) {
    const std::vector<Variable> at(all.begin(), all.end() - 1);
    EnableGrad recording;
    std::vector<Variable> leaves;  // differences run without recording and hand in plain values
    for (const Variable& v : at)
      leaves.push_back(v.requires_grad() || !is_floating(v.dtype()) ? v : Variable(v.value(), true));
    std::vector<Variable> wanted, flat;
    for (const Variable& v : leaves)
      if (v.requires_grad()) wanted.push_back(v);
    for (const Variable& g : grad(function(leaves), wanted, all.back(), true, true))
      flat.push_back(reshape(g, {g.numel()}));
    return concat(flat, 0);
  };
  std::vector<Variable> all = inputs;
  all.emplace_back(random_normal(output_shape, {options.seed, 1u << 20}, 0, inputs[0].options()));
  return gradcheck(gradients, all, options);
}

}  // namespace halfstep
