// The stand-in for cuBLAS and cublasLt on the emulated GPU: those functions of the libraries that
// cuda/gemm.cpp and cuda/cublas.cpp call, declared by the toolkit's own headers. Arguments are checked when a
// function is called, as the libraries do it, and a little stricter: where they would read beyond an array or
// give wrong numbers, such as with an algorithm that was found for another product, the stand-in refuses. The
// product itself runs with the stream. It knows nothing of gemm.cpp: matrices are read into double,
// multiplied in tiles, and rounded once.
#include <cublasLt.h>
#include <cublas_v2.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <map>
#include <vector>

#include "cuda/emulation/options.h"
#include "cuda/emulation/runtime.h"

// The types behind the libraries' handles.
struct cublasContext {
  cudaStream_t stream = nullptr;
  cublasMath_t math_mode = CUBLAS_DEFAULT_MATH;
};
struct cublasLtContext {};

namespace {

using halfstep::emulation::Access;
using halfstep::emulation::host_view;

// --- elements ----------------------------------------------------------------------------------------------

/// Bytes of an element; 0 for the types that the stand-in does not know.
int64_t size_of(cudaDataType type) {
  switch (type) {
    case CUDA_R_64F:
      return 8;
    case CUDA_R_32F:
      return 4;
    case CUDA_R_16BF:
      return 2;
    default:
      return 0;
  }
}

template <class To, class From>
To bits_of(From value) {
  static_assert(sizeof(To) == sizeof(From));
  To bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

/// The nearest number with 10 bits of mantissa, as tensor cores take f32.
float to_tf32(float value) {
  if (!std::isfinite(value)) return value;
  return bits_of<float>((bits_of<uint32_t>(value) + 0x1000u) & ~0x1fffu);
}

/// Round to nearest even; NaN stays NaN.
uint16_t to_bf16(float value) {
  const uint32_t bits = bits_of<uint32_t>(value);
  if (std::isnan(value)) return static_cast<uint16_t>(bits >> 16 | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

/// Elements as double.
void load(double* to, const void* from, int64_t count, cudaDataType type, bool tf32) {
  for (int64_t i = 0; i < count; ++i) {
    if (type == CUDA_R_64F) {
      to[i] = static_cast<const double*>(from)[i];
    } else if (type == CUDA_R_32F) {
      const float value = static_cast<const float*>(from)[i];
      to[i] = tf32 ? to_tf32(value) : value;
    } else {
      to[i] = bits_of<float>(uint32_t{static_cast<const uint16_t*>(from)[i]} << 16);
    }
  }
}

void store(void* to, int64_t i, double value, cudaDataType type) {
  if (type == CUDA_R_64F)
    static_cast<double*>(to)[i] = value;
  else if (type == CUDA_R_32F)
    static_cast<float*>(to)[i] = static_cast<float>(value);
  else
    static_cast<uint16_t*>(to)[i] = to_bf16(static_cast<float>(value));
}

// --- the product -------------------------------------------------------------------------------------------

/// Column-major matrices, `step` elements apart.
struct Matrices {
  const void* data;
  cudaDataType type;
  int64_t rows, columns, leading, step;

  /// Column j of matrix number i; only its own elements are looked at, not what lies between columns.
  void* column(int64_t i, int64_t j, Access access) const {
    const auto* const first = static_cast<const char*>(data) + (i * step + j * leading) * size_of(type);
    return host_view(first, static_cast<size_t>(rows * size_of(type)), access);
  }
};

/// d = alpha op(a) op(b) + beta c (+ bias along the columns of d); d is [m, n].
struct Product {
  const char* name;
  bool a_transposed, b_transposed, tf32;
  int64_t m, n, k, batch;
  Matrices a, b, c;
  void* d;
  const void* bias;  ///< or null
  double alpha, beta;
};

constexpr int64_t kTileRows = 8, kTileColumns = 4;

/// Lines (rows of op(a), or columns of op(b)) in panels of `width`: element p of line l is at
/// [l / width][p][l % width], with zeros behind the last line.
std::vector<double> pack(const Matrices& x, int64_t matrix, bool lines_are_columns, int64_t width,
                         bool tf32) {
  const int64_t lines = lines_are_columns ? x.columns : x.rows,
                length = lines_are_columns ? x.rows : x.columns;
  std::vector<double> packed(static_cast<size_t>((lines + width - 1) / width * width * length), 0.0);
  std::vector<double> column(static_cast<size_t>(x.rows));
  for (int64_t j = 0; j < x.columns; ++j) {
    load(column.data(), x.column(matrix, j, Access::read), x.rows, x.type, tf32);
    for (int64_t i = 0; i < x.rows; ++i) {
      const int64_t line = lines_are_columns ? j : i, p = lines_are_columns ? i : j;
      packed[static_cast<size_t>((line / width * length + p) * width + line % width)] =
          column[static_cast<size_t>(i)];
    }
  }
  return packed;
}

void multiply_tile(const double* a, const double* b, int64_t k, double (&sums)[kTileColumns][kTileRows]) {
  double local[kTileColumns][kTileRows] = {};
  for (int64_t p = 0; p < k; ++p) {
    for (int j = 0; j < kTileColumns; ++j)
      for (int i = 0; i < kTileRows; ++i) local[j][i] += a[p * kTileRows + i] * b[p * kTileColumns + j];
  }
  std::memcpy(sums, local, sizeof local);
}

void run(const Product& x) {
  std::vector<double> bias(static_cast<size_t>(x.m), 0.0), old(static_cast<size_t>(x.m));
  if (x.bias != nullptr) {
    const auto bytes = static_cast<size_t>(x.m * size_of(x.c.type));
    load(bias.data(), host_view(x.bias, bytes, Access::read), x.m, x.c.type, false);
  }
  const int64_t padded_m = (x.m + kTileRows - 1) / kTileRows * kTileRows;
  std::vector<double> columns(static_cast<size_t>(padded_m * kTileColumns));
  for (int64_t matrix = 0; matrix < x.batch; ++matrix) {
    const std::vector<double> a = pack(x.a, matrix, x.a_transposed, kTileRows, x.tf32);
    const std::vector<double> b = pack(x.b, matrix, !x.b_transposed, kTileColumns, x.tf32);
    for (int64_t j = 0; j < x.n; j += kTileColumns) {
      for (int64_t i = 0; i < x.m; i += kTileRows) {
        double sums[kTileColumns][kTileRows];
        multiply_tile(a.data() + i * x.k, b.data() + j * x.k, x.k, sums);
        for (int64_t t = 0; t < kTileColumns; ++t)
          std::copy_n(sums[t], kTileRows, columns.begin() + t * padded_m + i);
      }
      for (int64_t t = 0; t < std::min(kTileColumns, x.n - j); ++t) {
        // With beta = 0 the old C is not read: it may be anything, also NaN.
        if (x.beta != 0) load(old.data(), x.c.column(matrix, j + t, Access::read), x.m, x.c.type, false);
        Matrices d = x.c;
        d.data = x.d;
        void* const to = d.column(matrix, j + t, Access::write);
        for (int64_t i = 0; i < x.m; ++i) {
          double value = x.alpha * columns[static_cast<size_t>(t * padded_m + i)];
          if (x.beta != 0) value += x.beta * old[static_cast<size_t>(i)];
          store(to, i, value + bias[static_cast<size_t>(i)], x.c.type);
        }
      }
    }
  }
}

void count(const Product& x) {
  const auto product = static_cast<double>(x.batch);
  const auto m = static_cast<double>(x.m), n = static_cast<double>(x.n), k = static_cast<double>(x.k);
  const auto bytes_of = [](const Matrices& matrices) { return static_cast<double>(size_of(matrices.type)); };
  const char* type = x.a.type == CUDA_R_64F    ? "f64"
                     : x.a.type == CUDA_R_16BF ? "bf16"
                     : x.tf32                  ? "tf32"
                                               : "f32";
  halfstep::emulation::count_gemm(x.name, 2 * product * m * n * k,
                                  product * (m * k * bytes_of(x.a) + k * n * bytes_of(x.b) +
                                             (x.beta == 0 ? 1 : 2) * m * n * bytes_of(x.c)),
                                  type);
}

void enqueue(cudaStream_t stream, const Product& x) {
  halfstep::emulation::enqueue(stream, [x] {
    count(x);
    run(x);
  });
}

// --- checks ------------------------------------------------------------------------------------------------

bool aligned(const void* pointer, uint64_t bytes) {
  return reinterpret_cast<uintptr_t>(pointer) % bytes == 0;
}

/// Types that go together: the tables of cublasGemmEx() and cublasLtMatmul(), as far as they are used.
bool supported(cudaDataType a, cudaDataType b, cudaDataType c, cublasComputeType_t compute) {
  if (a != b) return false;
  if (compute == CUBLAS_COMPUTE_64F) return a == CUDA_R_64F && c == CUDA_R_64F;
  if (compute == CUBLAS_COMPUTE_32F_FAST_TF32) return a == CUDA_R_32F && c == CUDA_R_32F;
  if (compute != CUBLAS_COMPUTE_32F) return false;
  return (a == CUDA_R_32F && c == CUDA_R_32F) || (a == CUDA_R_16BF && (c == CUDA_R_16BF || c == CUDA_R_32F));
}

/// A matrix of the right size, with columns that do not overlap, in memory that its elements can be loaded
/// from.
bool well_formed(const Matrices& x) {
  return x.data != nullptr && aligned(x.data, static_cast<uint64_t>(size_of(x.type))) &&
         x.leading >= std::max<int64_t>(1, x.rows);
}

/// Whether the matrices of a batch of results lie apart: none begins inside another, or they interleave.
bool apart(const Matrices& c, int64_t batch) {
  if (batch <= 1) return true;
  const int64_t step = std::abs(c.step);
  return step >= (c.columns - 1) * c.leading + c.rows || (step >= c.rows && step * batch <= c.leading);
}

double scalar(const void* pointer, cublasComputeType_t compute) {
  return compute == CUBLAS_COMPUTE_64F ? *static_cast<const double*>(pointer)
                                       : double{*static_cast<const float*>(pointer)};
}

cublasStatus_t gemm(const char* name, cublasHandle_t handle, cublasOperation_t transa,
                    cublasOperation_t transb, int64_t m, int64_t n, int64_t k, const void* alpha, Matrices a,
                    Matrices b, const void* beta, Matrices c, void* d, int64_t batch,
                    cublasComputeType_t compute) {
  if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
  if (halfstep::emulation::should_fail("gemm")) return CUBLAS_STATUS_EXECUTION_FAILED;
  for (const cublasOperation_t op : {transa, transb}) {
    if (op != CUBLAS_OP_N && op != CUBLAS_OP_T) return CUBLAS_STATUS_INVALID_VALUE;
  }
  if (m < 0 || n < 0 || k < 0 || batch < 0 || alpha == nullptr || beta == nullptr)
    return CUBLAS_STATUS_INVALID_VALUE;
  if (!supported(a.type, b.type, c.type, compute)) return CUBLAS_STATUS_NOT_SUPPORTED;
  const bool a_transposed = transa == CUBLAS_OP_T, b_transposed = transb == CUBLAS_OP_T;
  a.rows = a_transposed ? k : m, a.columns = a_transposed ? m : k;
  b.rows = b_transposed ? n : k, b.columns = b_transposed ? k : n;
  c.rows = m, c.columns = n;
  if (m == 0 || n == 0 || batch == 0) return CUBLAS_STATUS_SUCCESS;
  if (!well_formed(a) || !well_formed(b) || !well_formed(c) || !apart(c, batch))
    return CUBLAS_STATUS_INVALID_VALUE;
  enqueue(handle->stream, {.name = name,
                           .a_transposed = a_transposed,
                           .b_transposed = b_transposed,
                           .tf32 = compute == CUBLAS_COMPUTE_32F_FAST_TF32,
                           .m = m,
                           .n = n,
                           .k = k,
                           .batch = batch,
                           .a = a,
                           .b = b,
                           .c = c,
                           .d = d,
                           .bias = nullptr,
                           .alpha = scalar(alpha, compute),
                           .beta = scalar(beta, compute)});
  return CUBLAS_STATUS_SUCCESS;
}

// --- descriptors of cublasLt -------------------------------------------------------------------------------

/// An object behind one of cublasLt's descriptors: attributes with the sizes that they have, zero at first.
template <class Opaque>
struct Attributes : Opaque {
  std::map<int, std::vector<char>> values;

  template <class T>
  void define(int attribute, T value) {
    const char* const bytes = reinterpret_cast<const char*>(&value);
    values[attribute].assign(bytes, bytes + sizeof value);
  }
  template <class T>
  T get(int attribute) const {
    T value;
    std::memcpy(&value, values.at(attribute).data(), sizeof value);
    return value;
  }
  cublasStatus_t set(int attribute, const void* bytes, size_t size) {
    const auto found = values.find(attribute);
    if (bytes == nullptr || found == values.end() || found->second.size() != size)
      return CUBLAS_STATUS_INVALID_VALUE;
    std::memcpy(found->second.data(), bytes, size);
    return CUBLAS_STATUS_SUCCESS;
  }
};
using Desc = Attributes<cublasLtMatmulDescOpaque_t>;
using Layout = Attributes<cublasLtMatrixLayoutOpaque_t>;
using Preference = Attributes<cublasLtMatmulPreferenceOpaque_t>;

/// A descriptor, from the pointer that the caller has.
template <class Mine, class Opaque>
Mine* mine(Opaque* descriptor) {
  return static_cast<Mine*>(descriptor);
}

Matrices matrices_of(const Layout& layout, const void* data) {
  return {.data = data,
          .type = layout.get<cudaDataType>(CUBLASLT_MATRIX_LAYOUT_TYPE),
          .rows = layout.get<int64_t>(CUBLASLT_MATRIX_LAYOUT_ROWS),
          .columns = layout.get<int64_t>(CUBLASLT_MATRIX_LAYOUT_COLS),
          .leading = layout.get<int64_t>(CUBLASLT_MATRIX_LAYOUT_LD),
          .step = layout.get<int64_t>(CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET)};
}

/// Reads a product from its descriptors, without pointers and scalars.
cublasStatus_t describe(const Desc& desc, const Layout& a, const Layout& b, const Layout& c, const Layout& d,
                        Product& product) {
  const auto compute = desc.get<cublasComputeType_t>(CUBLASLT_MATMUL_DESC_COMPUTE_TYPE);
  const auto scale = desc.get<cudaDataType>(CUBLASLT_MATMUL_DESC_SCALE_TYPE);
  const auto transa = desc.get<int32_t>(CUBLASLT_MATMUL_DESC_TRANSA);
  const auto transb = desc.get<int32_t>(CUBLASLT_MATMUL_DESC_TRANSB);
  const auto epilogue = desc.get<uint32_t>(CUBLASLT_MATMUL_DESC_EPILOGUE);
  const void* const bias = desc.get<const void*>(CUBLASLT_MATMUL_DESC_BIAS_POINTER);
  product = {.name = "cublasLtMatmul",
             .a_transposed = transa == CUBLAS_OP_T,
             .b_transposed = transb == CUBLAS_OP_T,
             .tf32 = compute == CUBLAS_COMPUTE_32F_FAST_TF32,
             .m = 0,
             .n = 0,
             .k = 0,
             .batch = d.get<int32_t>(CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT),
             .a = matrices_of(a, nullptr),
             .b = matrices_of(b, nullptr),
             .c = matrices_of(c, nullptr),
             .d = nullptr,
             .bias = epilogue == CUBLASLT_EPILOGUE_BIAS ? bias : nullptr,
             .alpha = 0,
             .beta = 0};
  product.m = product.c.rows;
  product.n = product.c.columns;
  product.k = product.a_transposed ? product.a.rows : product.a.columns;
  for (const int32_t op : {transa, transb}) {
    if (op != CUBLAS_OP_N && op != CUBLAS_OP_T) return CUBLAS_STATUS_INVALID_VALUE;
  }
  if (epilogue != CUBLASLT_EPILOGUE_DEFAULT && epilogue != CUBLASLT_EPILOGUE_BIAS)
    return CUBLAS_STATUS_NOT_SUPPORTED;
  if (epilogue == CUBLASLT_EPILOGUE_BIAS && bias == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
  for (const Layout* layout : {&a, &b, &c, &d}) {
    const Matrices x = matrices_of(*layout, nullptr);
    if (layout->get<int32_t>(CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT) != product.batch || product.batch < 1 ||
        x.rows < 1 || x.columns < 1 || x.leading < x.rows)
      return CUBLAS_STATUS_INVALID_VALUE;
  }
  if (c.values != d.values || !apart(product.c, product.batch)) return CUBLAS_STATUS_INVALID_VALUE;
  if ((product.a_transposed ? product.a.columns : product.a.rows) != product.m ||
      (product.b_transposed ? product.b.columns : product.b.rows) != product.k ||
      (product.b_transposed ? product.b.rows : product.b.columns) != product.n)
    return CUBLAS_STATUS_INVALID_VALUE;
  if (!supported(product.a.type, product.b.type, product.c.type, compute) ||
      scale != (compute == CUBLAS_COMPUTE_64F ? CUDA_R_64F : CUDA_R_32F))
    return CUBLAS_STATUS_NOT_SUPPORTED;
  return CUBLAS_STATUS_SUCCESS;
}

/// What the stand-in writes into an algorithm: the product that it was found for, and what it needs.
struct Algorithm {
  uint64_t product;
  uint64_t workspace_bytes;
  uint32_t a_alignment, b_alignment, c_alignment, d_alignment, bias_alignment;
};
static_assert(sizeof(Algorithm) <= sizeof(cublasLtMatmulAlgo_t));

/// A number that tells products apart; of pointers, which may change, it depends only on whether a bias is
/// there.
uint64_t number_of(const Product& x) {
  uint64_t number = 14695981039346656037u;  // FNV-1a
  const auto join = [&](int64_t value) { number = (number ^ static_cast<uint64_t>(value)) * 1099511628211u; };
  for (const Matrices* matrices : {&x.a, &x.b, &x.c}) {
    for (const int64_t value :
         {int64_t{matrices->type}, matrices->rows, matrices->columns, matrices->leading, matrices->step})
      join(value);
  }
  for (const bool value : {x.a_transposed, x.b_transposed, x.tf32, x.bias != nullptr}) join(value ? 1 : 0);
  join(x.batch);
  return number;
}

uint32_t alignment_of(const void* pointer) {
  const uint64_t bits = reinterpret_cast<uintptr_t>(pointer) | 256u;
  return static_cast<uint32_t>(bits & (~bits + 1));
}

// Of a workspace as a real algorithm with a split sum would want it.
constexpr uint64_t kWorkspaceBytes = 1 << 20;

}  // namespace

extern "C" {

// --- cuBLAS ------------------------------------------------------------------------------------------------

cublasStatus_t CUBLASWINAPI cublasCreate_v2(cublasHandle_t* handle) {
  if (handle == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
  *handle = new cublasContext;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t CUBLASWINAPI cublasDestroy_v2(cublasHandle_t handle) {
  if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
  delete handle;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t CUBLASWINAPI cublasSetStream_v2(cublasHandle_t handle, cudaStream_t stream) {
  if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
  handle->stream = stream;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t CUBLASWINAPI cublasSetWorkspace_v2(cublasHandle_t handle, void* workspace, size_t bytes) {
  if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
  if (!aligned(workspace, 256) || (workspace == nullptr && bytes > 0)) return CUBLAS_STATUS_INVALID_VALUE;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t CUBLASWINAPI cublasSetMathMode(cublasHandle_t handle, cublasMath_t mode) {
  if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
  handle->math_mode = mode;
  return CUBLAS_STATUS_SUCCESS;
}

const char* CUBLASWINAPI cublasGetStatusString(cublasStatus_t status) {
  switch (status) {
    case CUBLAS_STATUS_SUCCESS:
      return "success";
    case CUBLAS_STATUS_NOT_INITIALIZED:
      return "the library was not initialized";
    case CUBLAS_STATUS_ALLOC_FAILED:
      return "the resource allocation failed";
    case CUBLAS_STATUS_INVALID_VALUE:
      return "an unsupported value or parameter was passed to the function";
    case CUBLAS_STATUS_NOT_SUPPORTED:
      return "the functionality requested is not supported";
    default:
      return "an internal operation failed";
  }
}

cublasStatus_t CUBLASWINAPI cublasGemmEx_64(cublasHandle_t handle, cublasOperation_t transa,
                                            cublasOperation_t transb, int64_t m, int64_t n, int64_t k,
                                            const void* alpha, const void* A, cudaDataType Atype, int64_t lda,
                                            const void* B, cudaDataType Btype, int64_t ldb, const void* beta,
                                            void* C, cudaDataType Ctype, int64_t ldc,
                                            cublasComputeType_t computeType, cublasGemmAlgo_t) {
  return gemm("cublasGemmEx", handle, transa, transb, m, n, k, alpha, {A, Atype, 0, 0, lda, 0},
              {B, Btype, 0, 0, ldb, 0}, beta, {C, Ctype, 0, 0, ldc, 0}, C, 1, computeType);
}

cublasStatus_t CUBLASWINAPI cublasGemmStridedBatchedEx_64(
    cublasHandle_t handle, cublasOperation_t transa, cublasOperation_t transb, int64_t m, int64_t n,
    int64_t k, const void* alpha, const void* A, cudaDataType Atype, int64_t lda, long long int strideA,
    const void* B, cudaDataType Btype, int64_t ldb, long long int strideB, const void* beta, void* C,
    cudaDataType Ctype, int64_t ldc, long long int strideC, int64_t batchCount,
    cublasComputeType_t computeType, cublasGemmAlgo_t) {
  return gemm("cublasGemmStridedBatchedEx", handle, transa, transb, m, n, k, alpha,
              {A, Atype, 0, 0, lda, strideA}, {B, Btype, 0, 0, ldb, strideB}, beta,
              {C, Ctype, 0, 0, ldc, strideC}, C, batchCount, computeType);
}

// --- cublasLt ----------------------------------------------------------------------------------------------

cublasStatus_t CUBLASWINAPI cublasLtCreate(cublasLtHandle_t* handle) {
  if (handle == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
  *handle = new cublasLtContext;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t CUBLASWINAPI cublasLtDestroy(cublasLtHandle_t handle) {
  if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
  delete handle;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t CUBLASWINAPI cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* created,
                                                     cublasComputeType_t compute, cudaDataType_t scale) {
  auto* const desc = new Desc;
  desc->define(CUBLASLT_MATMUL_DESC_COMPUTE_TYPE, compute);
  desc->define(CUBLASLT_MATMUL_DESC_SCALE_TYPE, scale);
  desc->define(CUBLASLT_MATMUL_DESC_TRANSA, int32_t{CUBLAS_OP_N});
  desc->define(CUBLASLT_MATMUL_DESC_TRANSB, int32_t{CUBLAS_OP_N});
  desc->define(CUBLASLT_MATMUL_DESC_EPILOGUE, uint32_t{CUBLASLT_EPILOGUE_DEFAULT});
  desc->define(CUBLASLT_MATMUL_DESC_BIAS_POINTER, static_cast<const void*>(nullptr));
  *created = desc;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t CUBLASWINAPI cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc) {
  delete mine<Desc>(desc);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t CUBLASWINAPI cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc,
                                                           cublasLtMatmulDescAttributes_t attribute,
                                                           const void* value, size_t size) {
  return mine<Desc>(desc)->set(attribute, value, size);
}

cublasStatus_t CUBLASWINAPI cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* created, cudaDataType type,
                                                       uint64_t rows, uint64_t cols, int64_t ld) {
  auto* const layout = new Layout;
  layout->define(CUBLASLT_MATRIX_LAYOUT_TYPE, type);
  layout->define(CUBLASLT_MATRIX_LAYOUT_ROWS, rows);
  layout->define(CUBLASLT_MATRIX_LAYOUT_COLS, cols);
  layout->define(CUBLASLT_MATRIX_LAYOUT_LD, ld);
  layout->define(CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, int32_t{1});
  layout->define(CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, int64_t{0});
  *created = layout;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t CUBLASWINAPI cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  delete mine<Layout>(layout);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t CUBLASWINAPI cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout,
                                                             cublasLtMatrixLayoutAttribute_t attribute,
                                                             const void* value, size_t size) {
  return mine<Layout>(layout)->set(attribute, value, size);
}

cublasStatus_t CUBLASWINAPI cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* created) {
  auto* const preference = new Preference;
  preference->define(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t{0});
  preference->define(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, uint32_t{CUBLASLT_REDUCTION_SCHEME_MASK});
  for (const auto attribute :
       {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
    preference->define(attribute, uint32_t{256});
  *created = preference;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t CUBLASWINAPI cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  delete mine<Preference>(preference);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t CUBLASWINAPI cublasLtMatmulPreferenceSetAttribute(
    cublasLtMatmulPreference_t preference, cublasLtMatmulPreferenceAttributes_t attribute, const void* value,
    size_t size) {
  return mine<Preference>(preference)->set(attribute, value, size);
}

// One algorithm for each product, but none for an epilogue in f64: a library may know none, and callers are
// to be seen to live with it.
cublasStatus_t CUBLASWINAPI cublasLtMatmulAlgoGetHeuristic(
    cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
    cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d, cublasLtMatmulPreference_t preference, int requested,
    cublasLtMatmulHeuristicResult_t results[], int* count) {
  if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
  if (requested < 1 || results == nullptr || count == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
  *count = 0;
  Product product;
  const cublasStatus_t status = describe(*mine<Desc>(desc), *mine<Layout>(a), *mine<Layout>(b),
                                         *mine<Layout>(c), *mine<Layout>(d), product);
  if (status != CUBLAS_STATUS_SUCCESS) return status;
  if (product.c.type == CUDA_R_64F && product.bias != nullptr) return CUBLAS_STATUS_NOT_SUPPORTED;
  const Preference& wanted = *mine<Preference>(preference);
  const auto workspace = wanted.get<uint64_t>(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES);
  const Algorithm algorithm{.product = number_of(product),
                            .workspace_bytes = std::min(workspace, kWorkspaceBytes),
                            .a_alignment = wanted.get<uint32_t>(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES),
                            .b_alignment = wanted.get<uint32_t>(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES),
                            .c_alignment = wanted.get<uint32_t>(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES),
                            .d_alignment = wanted.get<uint32_t>(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES),
                            .bias_alignment = product.bias != nullptr ? alignment_of(product.bias) : 1};
  results[0] = {};
  std::memcpy(&results[0].algo, &algorithm, sizeof algorithm);
  results[0].workspaceSize = algorithm.workspace_bytes;
  results[0].state = CUBLAS_STATUS_SUCCESS;
  results[0].wavesCount = 1;
  *count = 1;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t CUBLASWINAPI cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
                                           const void* alpha, const void* A, cublasLtMatrixLayout_t a,
                                           const void* B, cublasLtMatrixLayout_t b, const void* beta,
                                           const void* C, cublasLtMatrixLayout_t c, void* D,
                                           cublasLtMatrixLayout_t d, const cublasLtMatmulAlgo_t* algo,
                                           void* workspace, size_t workspace_bytes, cudaStream_t stream) {
  if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
  if (alpha == nullptr || beta == nullptr || algo == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
  Product product;
  const cublasStatus_t status = describe(*mine<Desc>(desc), *mine<Layout>(a), *mine<Layout>(b),
                                         *mine<Layout>(c), *mine<Layout>(d), product);
  if (status != CUBLAS_STATUS_SUCCESS) return status;
  product.a.data = A;
  product.b.data = B;
  product.c.data = C;
  product.d = D;
  const auto compute = mine<Desc>(desc)->get<cublasComputeType_t>(CUBLASLT_MATMUL_DESC_COMPUTE_TYPE);
  product.alpha = scalar(alpha, compute);
  product.beta = scalar(beta, compute);
  if (!well_formed(product.a) || !well_formed(product.b) || !well_formed(product.c) || D == nullptr ||
      !aligned(D, static_cast<uint64_t>(size_of(product.c.type))))
    return CUBLAS_STATUS_INVALID_VALUE;
  Algorithm algorithm;
  std::memcpy(&algorithm, algo, sizeof algorithm);
  if (algorithm.product != number_of(product) || workspace_bytes < algorithm.workspace_bytes ||
      (workspace_bytes > 0 && (workspace == nullptr || !aligned(workspace, 16))) ||
      !aligned(A, algorithm.a_alignment) || !aligned(B, algorithm.b_alignment) ||
      !aligned(C, algorithm.c_alignment) || !aligned(D, algorithm.d_alignment) ||
      (product.bias != nullptr && !aligned(product.bias, algorithm.bias_alignment)))
    return CUBLAS_STATUS_INVALID_VALUE;
  enqueue(stream, product);
  return CUBLAS_STATUS_SUCCESS;
}

}  // extern "C"
