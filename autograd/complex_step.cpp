#include "autograd/complex_step.h"

#include "tensor/error.h"
#include "tensor/formulas.h"

namespace halfstep {

namespace {

template <int N, class Formula>
GradcheckReport check_order(Formula formula, UnaryArgs op, const std::vector<double>& points,
                            double relative) {
  const auto lower = [&](Complex x) { return formulas::derivative<N>(formula, x, op.p0, op.p1); };
  const auto slope = [&](double x) { return formulas::derivative<N + 1>(formula, x, op.p0, op.p1); };
  return gradcheck_formula(lower, slope, points, relative);
}

}  // namespace

GradcheckReport complex_step_check(UnaryArgs op, const std::vector<double>& points, double relative) {
  static_assert(kMaxDerivative == 3);
  GradcheckReport report;
  formulas::visit_formula(op.op, [&](auto formula) {
    switch (op.derivative) {
      case 0:
        report = check_order<0>(formula, op, points, relative);
        return;
      case 1:
        report = check_order<1>(formula, op, points, relative);
        return;
      case 2:
        report = check_order<2>(formula, op, points, relative);
        return;
      default:
        fail("complex_step_check", "expected a derivative of 0 to {}, got {}", kMaxDerivative - 1,
             op.derivative);
    }
  });
  return report;
}

}  // namespace halfstep
