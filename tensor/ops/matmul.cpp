// Matrix products.
#include "tensor/error.h"
#include "tensor/ops.h"
#include "tensor/ops/check.h"

namespace halfstep {

Tensor matmul(const Tensor& a, const Tensor& b, const Tensor& bias) {
  require_alike({&a, &b}, "matmul");
  require(a.rank() >= 2 && b.rank() >= 2, "matmul",
          "expected matrices, got {} x {}; add an axis with unsqueeze", str(a.shape()), str(b.shape()));
  const int64_t m = a.size(-2), k = a.size(-1), n = b.size(-1);
  require(b.size(-2) == k, "matmul", "inner sizes differ: {} x {}; is one operand to be transposed?",
          str(a.shape()), str(b.shape()));
  Shape lead_a = a.shape(), lead_b = b.shape();
  for (Shape* s : {&lead_a, &lead_b}) {
    s->erase(s->rank() - 1);
    s->erase(s->rank() - 1);
  }
  Shape lead = broadcast_shapes(lead_a, lead_b, "matmul");
  const auto with_tail = [&](int64_t rows, int64_t cols) {
    Shape s = lead;
    s.push_back(rows);
    s.push_back(cols);
    return s;
  };
  Tensor c = Tensor::empty(with_tail(m, n), a.options());
  GemmArgs args{.a = a.expand(with_tail(m, k)).array(),
                .b = b.expand(with_tail(k, n)).array(),
                .c = c.array(),
                .bias = {}};
  if (bias.defined()) {
    require_alike({&a, &bias}, "matmul");
    require(bias.shape() == Shape{n}, "matmul", "expected a bias of shape ({},), got {}", n,
            str(bias.shape()));
    args.bias = bias.array();
  }
  backend_of(a).gemm(args);
  return c;
}

}  // namespace halfstep
