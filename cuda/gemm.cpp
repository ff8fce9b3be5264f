// Matrix products on cuBLAS.
//
// cuBLAS wants column-major matrices: a step of 1 within columns and a step of at least their length (the
// leading dimension) between them. A row-major C = A B is the same memory as the column-major C^T = B^T A^T,
// so the factors change places, and each is marked as transposed where its rows, not its columns, have the
// step of 1. Everything else is a matter of bringing any strides to that form, in this order:
//   1. a factor or C whose matrices have no such layout takes a detour through contiguous memory, which
//      costs one read and one write of it; a broadcast factor is copied once, not once for each of its uses;
//   2. a C of column-major matrices is turned into a row-major one by transposing the whole equation;
//   3. leading axes over which B does not change become rows of A and C, if their strides allow: one large
//      product instead of many small ones. Of the others the largest is left to cuBLAS as a strided batch,
//      and this file loops over the rest.
// A bias is added by the epilogue of cublasLt while C is in registers. Where that is not possible, C is
// filled with it first and the product added, which costs one write and one read of C.
#include <algorithm>
#include <array>
#include <compare>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "cuda/cublas.h"
#include "cuda/entries.h"
#include "cuda/runtime.h"

namespace halfstep::cuda {
namespace {

// --- matrices of any strides -------------------------------------------------------------------------------

/// A matrix for each place of the leading axes of a product: a factor, or its result.
struct Matrices {
  char* data;
  DType dtype;
  int64_t rows, columns;
  int64_t row, column;                       ///< steps between neighbouring rows and columns
  std::array<int64_t, kMaxRank> steps = {};  ///< along the leading axes

  bool row_major() const { return (columns == 1 || column == 1) && (rows == 1 || row >= columns); }
  bool column_major() const { return transposed().row_major(); }
  Matrices transposed() const {
    Matrices t = *this;
    std::swap(t.rows, t.columns);
    std::swap(t.row, t.column);
    return t;
  }
  /// cuBLAS's leading dimension; of a single row (or column) the step to the next does not matter.
  int64_t leading() const {
    const Matrices m = row_major() ? *this : transposed();
    return m.rows == 1 ? m.columns : m.row;
  }
  /// The matrix at `place` of one axis.
  Matrices at(int axis, int64_t place) const {
    Matrices m = *this;
    m.data += place * steps[static_cast<size_t>(axis)] * static_cast<int64_t>(size_of(dtype));
    return m;
  }
};

Matrices matrices_of(const Array& a) {
  const int r = a.shape.rank();
  Matrices m{.data = a.as<char>(),
             .dtype = a.dtype,
             .rows = a.shape[r - 2],
             .columns = a.shape[r - 1],
             .row = a.strides[r - 2],
             .column = a.strides[r - 1]};
  for (int i = 0; i < r - 2; ++i) m.steps[static_cast<size_t>(i)] = a.strides[i];
  return m;
}

bool has_layout(const Array& a) {
  const Matrices m = matrices_of(a);
  return m.row_major() || m.column_major();
}

/// c[place] = alpha * a[place] b[place] + beta * c[place] for every place of the leading axes.
struct Product {
  Matrices a, b, c;
  std::vector<int64_t> sizes;  ///< of the leading axes

  /// The same product as C^T = B^T A^T.
  Product transposed() const { return {b.transposed(), a.transposed(), c.transposed(), sizes}; }

  void erase_axis(size_t axis) {
    for (Matrices* m : {&a, &b, &c}) {
      std::move(m->steps.begin() + static_cast<ptrdiff_t>(axis) + 1, m->steps.end(),
                m->steps.begin() + static_cast<ptrdiff_t>(axis));
    }
    sizes.erase(sizes.begin() + static_cast<ptrdiff_t>(axis));
  }
  /// Puts the axes in an order of falling steps through C and joins neighbours that one step can walk.
  void merge_axes();
  /// Turns axes over which b does not change into rows.
  void axes_to_rows();
};

void Product::merge_axes() {
  for (size_t i = sizes.size(); i-- > 0;) {
    if (sizes[i] == 1) erase_axis(i);
  }
  // A selection sort, of at most six axes: the steps of three matrices move with each size.
  for (size_t i = 0; i < sizes.size(); ++i) {
    for (size_t j = i + 1; j < sizes.size(); ++j) {
      if (std::abs(c.steps[j]) <= std::abs(c.steps[i])) continue;
      std::swap(sizes[i], sizes[j]);
      for (Matrices* m : {&a, &b, &c}) std::swap(m->steps[i], m->steps[j]);
    }
  }
  for (size_t i = sizes.size(); i-- > 1;) {
    const auto one_step = [&](const Matrices& m) { return m.steps[i - 1] == sizes[i] * m.steps[i]; };
    if (!one_step(a) || !one_step(b) || !one_step(c)) continue;
    sizes[i] *= sizes[i - 1];
    erase_axis(i - 1);
  }
}

void Product::axes_to_rows() {
  // The rows of all places of an axis as those of one matrix, if one step leads from each to the next.
  const auto with_rows_of = [&](Matrices m, size_t axis) -> std::optional<Matrices> {
    if (m.rows == 1) m.row = m.steps[axis];
    if (m.rows * m.row != m.steps[axis]) return std::nullopt;
    m.rows *= sizes[axis];
    return m;
  };
  for (size_t i = sizes.size(); i-- > 0;) {
    if (b.steps[i] != 0) continue;
    const auto more_a = with_rows_of(a, i), more_c = with_rows_of(c, i);
    if (!more_a || !(more_a->row_major() || more_a->column_major()) || !more_c || !more_c->row_major())
      continue;
    a = *more_a;
    c = *more_c;
    erase_axis(i);
  }
}

// --- calls of cuBLAS ---------------------------------------------------------------------------------------

// Batches are cut into calls of at most as many products as a grid has blocks along its third axis.
constexpr int64_t kMaxBatch = 65535;

/// What cuBLAS is told of a batch, but for pointers; with equal calls it does equal work. c is row-major; the
/// names are those of the product, not of cuBLAS's transposed one.
struct Call {
  DType a, b, c;
  bool a_transposed, b_transposed, accumulate;
  int64_t m, n, k, batch;
  int64_t a_leading, b_leading, c_leading;
  int64_t a_step, b_step, c_step;
  /// Of all pointers of the batch in bytes, up to 16: no kernel gains from more, and up to there the bits of
  /// a result do not depend on where the allocator puts an array.
  uint32_t a_alignment, b_alignment, c_alignment, bias_alignment;

  auto operator<=>(const Call&) const = default;
};

uint32_t alignment_of(uint64_t addresses) {
  const uint64_t bits = addresses | 16;
  return static_cast<uint32_t>(bits & (~bits + 1));
}

uint32_t alignment_of(const Matrices& m) {
  uint64_t addresses = reinterpret_cast<uintptr_t>(m.data);
  for (const int64_t step : m.steps) addresses |= static_cast<uint64_t>(step) * size_of(m.dtype);
  return alignment_of(addresses);
}

cudaDataType data_type(DType dtype) {
  if (dtype == DType::f64) return CUDA_R_64F;
  return dtype == DType::bf16 ? CUDA_R_16BF : CUDA_R_32F;
}

cublasComputeType_t compute_type(const Call& call) {
  if (call.c == DType::f64) return CUBLAS_COMPUTE_64F;
  return call.a == DType::f32 && allow_tf32() ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
}

cublasOperation_t operation(bool transposed) { return transposed ? CUBLAS_OP_T : CUBLAS_OP_N; }

/// alpha or beta in the type that cuBLAS reads: that of its sums.
struct Scalar {
  Scalar(double value, DType c) : f64(value), f32(static_cast<float>(value)), is_f64(c == DType::f64) {}
  const void* pointer() const { return is_f64 ? static_cast<const void*>(&f64) : &f32; }

  double f64;
  float f32;
  bool is_f64;
};

/// Deletes a descriptor of cublasLt.
template <auto destroy>
struct Destroy {
  template <class T>
  void operator()(T* descriptor) const {
    destroy(descriptor);
  }
};
using MatmulDesc = std::unique_ptr<cublasLtMatmulDescOpaque_t, Destroy<cublasLtMatmulDescDestroy>>;
using Layout = std::unique_ptr<cublasLtMatrixLayoutOpaque_t, Destroy<cublasLtMatrixLayoutDestroy>>;
using Preference =
    std::unique_ptr<cublasLtMatmulPreferenceOpaque_t, Destroy<cublasLtMatmulPreferenceDestroy>>;

template <class T>
void set(const MatmulDesc& desc, cublasLtMatmulDescAttributes_t attribute, T value) {
  check(cublasLtMatmulDescSetAttribute(desc.get(), attribute, &value, sizeof value));
}
template <class T>
void set(const Layout& layout, cublasLtMatrixLayoutAttribute_t attribute, T value) {
  check(cublasLtMatrixLayoutSetAttribute(layout.get(), attribute, &value, sizeof value));
}
template <class T>
void set(const Preference& preference, cublasLtMatmulPreferenceAttributes_t attribute, T value) {
  check(cublasLtMatmulPreferenceSetAttribute(preference.get(), attribute, &value, sizeof value));
}

/// How cublasLt does one Call with a bias.
struct Plan {
  MatmulDesc desc;
  Layout a, b, c;
  cublasLtMatmulAlgo_t algorithm = {};
  bool possible = false;
};

/// The layout of column-major matrices.
Layout make_layout(DType dtype, int64_t rows, int64_t columns, int64_t leading, int64_t step, int64_t batch) {
  cublasLtMatrixLayout_t created = nullptr;
  check(cublasLtMatrixLayoutCreate(&created, data_type(dtype), static_cast<uint64_t>(rows),
                                   static_cast<uint64_t>(columns), leading));
  Layout layout(created);
  set(layout, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, static_cast<int32_t>(batch));
  set(layout, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, step);
  return layout;
}

Plan make_plan(const Cublas& c, const Call& call) {
  Plan plan;
  if (std::max({call.m, call.n, call.k}) > INT32_MAX) return plan;  // beyond cublasLt
  cublasLtMatmulDesc_t desc = nullptr;
  check(cublasLtMatmulDescCreate(&desc, compute_type(call), call.c == DType::f64 ? CUDA_R_64F : CUDA_R_32F));
  plan.desc.reset(desc);
  set(plan.desc, CUBLASLT_MATMUL_DESC_TRANSA, operation(call.b_transposed));
  set(plan.desc, CUBLASLT_MATMUL_DESC_TRANSB, operation(call.a_transposed));
  set(plan.desc, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
  // The search looks at the alignment of the bias only. An address that has this alignment and no larger one
  // makes its answer fit every bias of this Call.
  set(plan.desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, uintptr_t{call.bias_alignment});

  const int64_t m = call.m, n = call.n, k = call.k;
  plan.a = make_layout(call.b, call.b_transposed ? k : n, call.b_transposed ? n : k, call.b_leading,
                       call.b_step, call.batch);
  plan.b = make_layout(call.a, call.a_transposed ? m : k, call.a_transposed ? k : m, call.a_leading,
                       call.a_step, call.batch);
  plan.c = make_layout(call.c, n, m, call.c_leading, call.c_step, call.batch);

  cublasLtMatmulPreference_t created = nullptr;
  check(cublasLtMatmulPreferenceCreate(&created));
  const Preference preference(created);
  set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t{c.workspace_bytes});
  set(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
      uint32_t{CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE});
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, call.b_alignment);
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, call.a_alignment);
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, call.c_alignment);
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, call.c_alignment);

  cublasLtMatmulHeuristicResult_t found = {};
  int count = 0;
  const cublasStatus_t status =
      cublasLtMatmulAlgoGetHeuristic(c.light, plan.desc.get(), plan.a.get(), plan.b.get(), plan.c.get(),
                                     plan.c.get(), preference.get(), 1, &found, &count);
  if (status != CUBLAS_STATUS_NOT_SUPPORTED) check(status);
  plan.possible = status == CUBLAS_STATUS_SUCCESS && count == 1 && found.state == CUBLAS_STATUS_SUCCESS;
  plan.algorithm = found.algo;
  return plan;
}

/// The plan of `call`, searched for once: the search takes longer than a small product, and one answer means
/// equal bits. c.mutex is held.
const Plan& plan_of(const Cublas& c, const Call& call) {
  static std::map<Call, Plan>* const plans = new std::map<Call, Plan>;  // kept like the handles
  const auto found = plans->find(call);
  return (found != plans->end() ? found : plans->emplace(call, make_plan(c, call)).first)->second;
}

/// `product` without leading axes but `axis` (or -1), of which `batch` places are computed at a time.
Call call_of(const Product& product, int axis, int64_t batch, bool accumulate, const Array& bias) {
  const auto step = [&](const Matrices& m) { return axis < 0 ? 0 : m.steps[static_cast<size_t>(axis)]; };
  const Matrices &a = product.a, &b = product.b, &c = product.c;
  return {.a = a.dtype,
          .b = b.dtype,
          .c = c.dtype,
          .a_transposed = !a.row_major(),
          .b_transposed = !b.row_major(),
          .accumulate = accumulate,
          .m = c.rows,
          .n = c.columns,
          .k = a.columns,
          .batch = batch,
          .a_leading = a.leading(),
          .b_leading = b.leading(),
          .c_leading = c.leading(),
          .a_step = step(a),
          .b_step = step(b),
          .c_step = step(c),
          .a_alignment = alignment_of(a),
          .b_alignment = alignment_of(b),
          .c_alignment = alignment_of(c),
          .bias_alignment = alignment_of(reinterpret_cast<uintptr_t>(bias.data))};
}

/// One call of cuBLAS, or with a bias (contiguous, in c's type) of cublasLt.
void multiply(Cublas& cublas, const Call& call, const Matrices& a, const Matrices& b, const Matrices& c,
              double alpha, const Array& bias) {
  const Scalar scale(alpha, call.c), old(call.accumulate ? 1 : 0, call.c);
  if (bias.absent() && call.batch == 1) {
    count_launches(1);
    return check(cublasGemmEx_64(
        cublas.handle, operation(call.b_transposed), operation(call.a_transposed), call.n, call.m, call.k,
        scale.pointer(), b.data, data_type(call.b), call.b_leading, a.data, data_type(call.a), call.a_leading,
        old.pointer(), c.data, data_type(call.c), call.c_leading, compute_type(call), CUBLAS_GEMM_DEFAULT));
  }
  if (bias.absent()) {
    count_launches(1);
    return check(cublasGemmStridedBatchedEx_64(
        cublas.handle, operation(call.b_transposed), operation(call.a_transposed), call.n, call.m, call.k,
        scale.pointer(), b.data, data_type(call.b), call.b_leading, call.b_step, a.data, data_type(call.a),
        call.a_leading, call.a_step, old.pointer(), c.data, data_type(call.c), call.c_leading, call.c_step,
        call.batch, compute_type(call), CUBLAS_GEMM_DEFAULT));
  }
  const Plan& plan = plan_of(cublas, call);
  if (!plan.possible) check(CUBLAS_STATUS_NOT_SUPPORTED);
  set(plan.desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, static_cast<const void*>(bias.data));
  count_launches(1);
  check(cublasLtMatmul(cublas.light, plan.desc.get(), scale.pointer(), b.data, plan.a.get(), a.data,
                       plan.b.get(), old.pointer(), c.data, plan.c.get(), c.data, plan.c.get(),
                       &plan.algorithm, cublas.workspace, cublas.workspace_bytes, stream()));
}

/// The leading axis that becomes cuBLAS's batch: the largest, if its steps do not run backwards; -1: none.
int batch_axis(const Product& product) {
  int best = -1;
  for (size_t i = 0; i < product.sizes.size(); ++i) {
    const auto forwards = [&](const Matrices& m) { return m.steps[i] >= 0; };
    if (!forwards(product.a) || !forwards(product.b) || !forwards(product.c)) continue;
    if (best < 0 || product.sizes[i] > product.sizes[static_cast<size_t>(best)]) best = static_cast<int>(i);
  }
  return best;
}

/// Calls f(a, b, c) for the matrices at each place of all leading axes but `batch`, from `axis` on.
template <class F>
void for_each_place(const Product& product, int batch, const Matrices& a, const Matrices& b,
                    const Matrices& c, F&& f, int axis = 0) {
  if (axis == static_cast<int>(product.sizes.size())) return f(a, b, c);
  const int64_t size = axis == batch ? 1 : product.sizes[static_cast<size_t>(axis)];
  for (int64_t i = 0; i < size; ++i)
    for_each_place(product, batch, a.at(axis, i), b.at(axis, i), c.at(axis, i), f, axis + 1);
}

/// A product that is ready for cuBLAS.
class Task {
 public:
  Task(const Product& product, double alpha) : product_(product), alpha_(alpha) {
    product_.merge_axes();
    product_.axes_to_rows();
    batch_ = batch_axis(product_);
    count_ = batch_ < 0 ? 1 : product_.sizes[static_cast<size_t>(batch_)];
  }

  /// Whether cublasLt can add the bias.
  bool adds(const Array& bias, bool accumulate) const {
    Cublas& c = cublas();
    const std::lock_guard lock(c.mutex);
    return plan_of(c, call_of(product_, batch_, std::min(count_, kMaxBatch), accumulate, bias)).possible;
  }

  void run(const Array& bias, bool accumulate) const {
    Cublas& handles = cublas();
    const std::lock_guard lock(handles.mutex);
    for (int64_t begin = 0; begin < count_; begin += kMaxBatch) {
      const int64_t size = std::min(count_ - begin, kMaxBatch);
      const Call call = call_of(product_, batch_, size, accumulate, bias);
      const auto first = [&](const Matrices& m) { return batch_ < 0 ? m : m.at(batch_, begin); };
      for_each_place(product_, batch_, first(product_.a), first(product_.b), first(product_.c),
                     [&](const Matrices& a, const Matrices& b, const Matrices& c) {
                       multiply(handles, call, a, b, c, alpha_, bias);
                     });
    }
  }

 private:
  Product product_;
  double alpha_;
  int batch_;
  int64_t count_;  ///< places of the batch
};

// --- memory for copies -------------------------------------------------------------------------------------

/// `a` with each axis of step 0 that leads to equal matrices cut down to one place.
Array without_repeats(Array a) {
  for (int i = 0; i < a.shape.rank() - 2; ++i) {
    if (a.strides[i] == 0) a.shape[i] = 1;
  }
  return a;
}

int64_t copy_bytes(const Array& a) {
  return ceil_div(numel(a.shape) * static_cast<int64_t>(size_of(a.dtype)), 256) * 256;
}

/// A contiguous array like `like` at `memory`, which moves on behind it.
Array carve(char*& memory, const Array& like) {
  const Array made{memory, like.dtype, like.shape, contiguous_strides(like.shape)};
  memory += copy_bytes(like);
  return made;
}

/// `row` ([N]) as an array of `shape` ([..., N]) by steps of 0.
Array repeated(const Array& row, const Shape& shape) {
  Array all{row.data, row.dtype, shape, Strides::filled(shape.rank(), 0)};
  all.strides[shape.rank() - 1] = row.strides[0];
  return all;
}

/// A copy of a factor, with steps of 0 where `a` has them.
Array copied_factor(char*& memory, const Array& a) {
  const Array source = without_repeats(a);
  Array made = carve(memory, source);
  copy(made, source);
  for (int i = 0; i < a.shape.rank() - 2; ++i) {
    if (source.shape[i] == 1) made.strides[i] = 0;
  }
  made.shape = a.shape;
  return made;
}

}  // namespace

// As everywhere in BLAS the factors are not read with alpha = 0, so that their NaN is then lost.
void gemm(GemmArgs args) {
  if (numel(args.c.shape) == 0) return;
  const bool has_bias = !args.bias.absent();
  const bool has_sums = args.a.shape.back() > 0;
  const bool accumulate = args.beta != 0;
  if (!has_sums && !has_bias) {
    if (!accumulate) fill(args.c, 0);
    return;
  }

  // A bf16 C that is kept is added to in f32, and rounded once.
  const bool row_major = matrices_of(args.c).row_major();
  const bool rounds_c = args.c.dtype == DType::bf16 && accumulate && has_bias;
  const bool copies_a = has_sums && !has_layout(args.a), copies_b = has_sums && !has_layout(args.b);
  const bool copies_c = !has_layout(args.c) || rounds_c;
  const bool tries_epilogue = has_bias && has_sums && (row_major || copies_c);
  Array like_c = args.c, like_bias = args.bias;
  if (rounds_c) like_c.dtype = DType::f32;
  like_bias.dtype = like_c.dtype;
  // cublasLt takes a contiguous bias only; a vector costs less to copy than C does to be visited twice.
  const bool copies_bias =
      has_bias && (args.bias.dtype != like_c.dtype ||
                   (tries_epilogue && args.bias.shape[0] > 1 && args.bias.strides[0] != 1));
  const int64_t bytes = (copies_a ? copy_bytes(without_repeats(args.a)) : 0) +
                        (copies_b ? copy_bytes(without_repeats(args.b)) : 0) +
                        (copies_c ? copy_bytes(like_c) : 0) + (copies_bias ? copy_bytes(like_bias) : 0);
  char* memory = bytes > 0 ? static_cast<char*>(workspace(static_cast<size_t>(bytes))) : nullptr;
  const Array a = copies_a ? copied_factor(memory, args.a) : args.a;
  const Array b = copies_b ? copied_factor(memory, args.b) : args.b;
  const Array c = copies_c ? carve(memory, like_c) : args.c;
  const Array bias = copies_bias ? carve(memory, like_bias) : args.bias;
  if (copies_c && accumulate) copy(c, args.c);
  if (copies_bias) copy(bias, args.bias);

  std::optional<Task> task;
  if (has_sums) {
    Product product{matrices_of(a), matrices_of(b), matrices_of(c), {}};
    product.sizes.assign(c.shape.begin(), c.shape.end() - 2);
    task.emplace(product.c.row_major() ? product : product.transposed(), args.alpha);
  }
  const bool in_epilogue = tries_epilogue && task->adds(bias, accumulate);
  const bool separate_bias = has_bias && !in_epilogue;
  const bool begins_with_bias = separate_bias && !accumulate;
  if (begins_with_bias) copy(c, repeated(bias, c.shape));
  if (task) task->run(in_epilogue ? bias : Array{}, accumulate || begins_with_bias);
  if (separate_bias && accumulate) binary(BinaryOp::add, 0, c, c, repeated(bias, c.shape));
  if (copies_c) copy(args.c, c);
}

}  // namespace halfstep::cuda
