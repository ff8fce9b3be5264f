// One case in one dtype on one device: what a kind of case computes with, and the comparisons that it makes.
#pragma once

#include <string>
#include <vector>

#include "autograd/variable.h"
#include "tests/golden_case.h"

namespace halfstep::test {

/// How far a result may be from its reference.
struct Tolerance {
  /// One bound per equal share of the elements, in row-major order: one for all, or one per leading index.
  std::vector<double> bounds;
  /// Errors are divided by the largest |reference|, unless that is 0.
  bool relative = false;
};

/// The element of a tensor that came nearest to its bound, or went furthest beyond.
struct Comparison {
  std::string name;  ///< of the reference tensor
  double error = 0, bound = 0;
  /// error / bound, infinite where a number is NaN or the shapes differ; at most 1 to pass.
  double share = 0;
  std::string remark;  ///< why there is no error to speak of: "shape (2, 3) instead of (3, 2)"

  bool passed() const { return share <= 1; }
};

/// Compares element by element. NaN on either side fails; equal infinities pass.
Comparison compare(const std::string& name, const Tensor& expected, const Tensor& actual,
                   const Tolerance& tolerance);

class GoldenRun {
 public:
  GoldenRun(const GoldenCase& golden_case, TensorOptions options) : golden(golden_case), options_(options) {}

  const GoldenCase& golden;
  TensorOptions options() const { return options_; }

  /// An input of the case, in this run's dtype and on its device.
  Tensor tensor(const std::string& name) const { return golden.tensor(name, options_); }
  std::vector<double> values(const std::string& name) const { return golden.values(name); }
  /// An input whose gradient is asked for.
  Variable leaf(const std::string& name) const { return Variable(tensor(name), true); }
  /// Scalars that are computed in double everywhere, as the tensor that they meet in a network: rounded once.
  Tensor scalars(const std::vector<double>& values) const {
    return Tensor::from(values, {static_cast<int64_t>(values.size())}, options_);
  }

  /// Compares with the tensor `reference` of the file.
  void check(const std::string& reference, const Tensor& actual, const Tolerance& tolerance);
  void check(const std::string& reference, const Variable& actual, const Tolerance& tolerance) {
    check(reference, actual.value(), tolerance);
  }

  /// Compares with `ref64/NAME` by the tolerance of `outputs` (the JAX cases); nothing where the case does
  /// not list NAME, so that one kind serves cases that keep more or fewer intermediates. What it lists and
  /// nobody compared is a failure in the end (see unfinished).
  void output(const std::string& name, const Tensor& actual);
  void output(const std::string& name, const Variable& actual) { output(name, actual.value()); }
  void output(const std::string& name, const std::vector<double>& actual) { output(name, scalars(actual)); }

  const std::vector<Comparison>& comparisons() const { return comparisons_; }

  /// What the case holds and nobody looked at, or promises and does not hold: one line each; empty if all is
  /// well. Results of the reference program in f32 (`out32/NAME` beside `ref64/NAME`, `NAME.f32` beside
  /// `NAME.f64`) are for the reader only.
  std::vector<std::string> unfinished() const;

 private:
  TensorOptions options_;
  std::vector<Comparison> comparisons_;
};

}  // namespace halfstep::test
