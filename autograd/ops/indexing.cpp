// Picking elements by index. Indices have no gradient; gather and scatter_add are each other's rule.
#include "autograd/ops.h"
#include "tensor/error.h"

namespace halfstep {

Variable gather(const Variable& x, int axis, const Tensor& index) {
  return record("gather", gather(x.value(), axis, index), {x},
                [axis, size = x.rank() ? x.size(axis) : 0, index = SavedTensor(index)](const Variable& g)
                    -> std::vector<Variable> { return {scatter_add(g, axis, index.get(), size)}; });
}

Variable scatter_add(const Variable& source, int axis, const Tensor& index, int64_t size) {
  return record("scatter_add", scatter_add(source.value(), axis, index, size), {source},
                [axis, index = SavedTensor(index)](const Variable& g) -> std::vector<Variable> {
                  return {gather(g, axis, index.get())};
                });
}

Variable embedding(const Variable& table, const Tensor& ids) {
  require(table.rank() == 2, "embedding", "expected a table [N, D], got {}", str(table.shape()));
  require(ids.defined(), "embedding", "expected ids, got an undefined tensor");
  Shape shape = ids.shape();
  shape.push_back(table.size(1));
  return reshape(gather(table, 0, ids.reshape({ids.numel(), 1})), shape);
}

}  // namespace halfstep
