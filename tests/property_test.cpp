// Properties over random shapes, axes, layouts and values (with fixed seeds): every function of the Tensor
// algebra against loops over indices that share no code with it, on both host devices and in both dtypes, and
// the identities that tie the functions together.
//
// Bounds: an element that is a sum of n products may be off by (n + 8) roundings of the sum of their absolute
// values (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1); `Plain::size` carries that
// sum.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numbers>
#include <random>

#include "tensor/ops.h"

using namespace halfstep;

namespace {

std::mt19937_64 generator(20221107);

int64_t pick(int64_t low, int64_t high) {
  return std::uniform_int_distribution<int64_t>(low, high)(generator);
}
bool coin() { return pick(0, 1) == 1; }

/// Sizes around the vector widths, one and (seldom) nothing.
int64_t pick_size() {
  static const int64_t sizes[] = {1, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33};
  return pick(0, 40) == 0 ? 0 : sizes[pick(0, 13)];
}

Shape pick_shape(int min_rank = 0, int max_rank = 5, int64_t most = 3000) {
  for (;;) {
    Shape shape;
    const int64_t rank = pick(min_rank, max_rank);
    for (int64_t i = 0; i < rank; ++i) shape.push_back(pick_size());
    if (numel(shape) <= most) return shape;
  }
}

/// The row-major indices of a shape, one after the other: for (Index i(shape); i.valid(); i.next()).
struct Index {
  std::vector<int64_t> at;
  std::vector<int64_t> sizes;
  bool done = false;

  explicit Index(const Shape& shape)
      : at(static_cast<size_t>(shape.rank())), sizes(shape.begin(), shape.end()) {
    done = std::count(sizes.begin(), sizes.end(), 0) > 0;
  }
  bool valid() const { return !done; }
  void next() {
    for (size_t i = at.size(); i-- > 0;) {
      if (++at[i] < sizes[i]) return;
      at[i] = 0;
    }
    done = true;
  }
};

/// A dense array of doubles: what a Tensor should be.
struct Plain {
  Shape shape;
  std::vector<double> value,
      size;  ///< the elements, and the sums of absolute values that bound their rounding

  explicit Plain(const Shape& s) : shape(s) {
    size_t n = 1;
    for (int64_t d : s) n *= static_cast<size_t>(d);
    value.assign(n, 0.0);
    size.assign(n, 0.0);
  }

  /// The element at the last `rank` numbers of an index, with axes of size 1 broadcast.
  size_t where(const std::vector<int64_t>& index) const {
    size_t n = 0;
    const size_t skip = index.size() - static_cast<size_t>(shape.rank());
    for (int i = 0; i < shape.rank(); ++i)
      n = n * static_cast<size_t>(shape[i]) +
          static_cast<size_t>(shape[i] == 1 ? 0 : index[skip + static_cast<size_t>(i)]);
    return n;
  }
  double operator()(const std::vector<int64_t>& index) const { return value[where(index)]; }
  void set(const std::vector<int64_t>& index, double v) {
    value[where(index)] = v;
    size[where(index)] = std::abs(v);
  }
  void add(const std::vector<int64_t>& index, double v) {
    value[where(index)] += v;
    size[where(index)] += std::abs(v);
  }
};

double eps_of(DType dtype) {
  return dtype == DType::f32 ? std::numeric_limits<float>::epsilon() : std::numeric_limits<double>::epsilon();
}

Plain plain(const Tensor& t) {
  Plain p(t.shape());
  p.value = t.to_vector<double>();
  for (size_t i = 0; i < p.value.size(); ++i) p.size[i] = std::abs(p.value[i]);
  return p;
}

/// |got - want| <= roundings * eps * size, element by element; NaN never passes.
void check_close(const Tensor& got, const Plain& want, double roundings) {
  REQUIRE(got.shape() == want.shape);
  const std::vector<double> values = got.to_vector<double>();
  REQUIRE(values.size() == want.value.size());
  const double eps = eps_of(got.dtype());
  size_t wrong = 0;
  for (size_t i = 0; i < values.size(); ++i)
    if (!(std::abs(values[i] - want.value[i]) <= roundings * eps * want.size[i] + 1e-37) && wrong++ == 0)
      CHECK_MESSAGE(false, "element " << i << " of " << str(want.shape) << ": expected " << want.value[i]
                                      << ", got " << values[i]);
  CHECK(wrong == 0);
}

/// Values in [low, high), in one of many layouts: plain, permuted, cut out of something larger, expanded, and
/// some axes reversed.
Tensor pick_tensor(const Shape& shape, TensorOptions options, double low = -2, double high = 2) {
  Shape stored = shape;
  std::vector<std::pair<int64_t, int64_t>> cuts;
  const int64_t layout = pick(0, 4);
  for (int i = 0; i < shape.rank(); ++i) {
    int64_t before = 0, after = 0;
    if (layout == 2 || layout == 3) before = pick(0, 2), after = pick(0, 2);
    if (layout == 4 && coin()) stored[i] = shape[i] == 0 ? 0 : 1;  // to be expanded
    cuts.push_back({before, stored[i] + before});
    stored[i] += before + after;
  }
  std::vector<int> order(static_cast<size_t>(shape.rank())), back(order.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int>(i);
  if (layout == 1 || layout == 3) std::shuffle(order.begin(), order.end(), generator);
  for (size_t i = 0; i < order.size(); ++i) back[static_cast<size_t>(order[i])] = static_cast<int>(i);

  Shape memory;
  for (int axis : order) memory.push_back(stored[axis]);
  std::uniform_real_distribution<double> value(low, high);
  std::vector<double> values(static_cast<size_t>(numel(memory)));
  for (double& v : values) v = value(generator);
  Tensor t = Tensor::from(values, memory, options).permute(back);
  for (int i = 0; i < shape.rank(); ++i)
    if (t.size(i) != cuts[static_cast<size_t>(i)].second - cuts[static_cast<size_t>(i)].first)
      t = t.slice(i, cuts[static_cast<size_t>(i)].first, cuts[static_cast<size_t>(i)].second);
  if (pick(0, 2) == 0) {
    std::vector<int> reversed;
    for (int i = 0; i < shape.rank(); ++i)
      if (coin()) reversed.push_back(i);
    t = t.flip(reversed);
  }
  return t.expand(shape);
}

/// Runs the property `times` times for every host device and dtype.
void for_each_setting(int times, const std::function<void(TensorOptions)>& property) {
  for (Device* device : {&reference_device(), &cpu_device()})
    for (DType dtype : {DType::f32, DType::f64}) {
      CAPTURE(device->name());
      CAPTURE(name_of(dtype));
      for (int i = 0; i < times; ++i) {
        CAPTURE(i);
        property({dtype, device});
      }
    }
}

/// A shape that broadcasts to `shape`: leading axes left out, others set to 1.
Shape pick_narrower(const Shape& shape) {
  Shape narrow;
  for (int i = static_cast<int>(pick(0, shape.rank())); i < shape.rank(); ++i)
    narrow.push_back(coin() ? shape[i] : 1);
  return narrow;
}

std::vector<int> pick_axes(int rank) {
  std::vector<int> axes;
  for (int i = 0; i < rank; ++i)
    if (coin()) axes.push_back(coin() ? i : i - rank);
  std::shuffle(axes.begin(), axes.end(), generator);
  return axes;
}

bool listed(const std::vector<int>& axes, int axis, int rank) {
  return std::count(axes.begin(), axes.end(), axis) + std::count(axes.begin(), axes.end(), axis - rank) > 0;
}

double inner(const Tensor& a, const Tensor& b) {
  REQUIRE(a.shape() == b.shape());
  const auto x = a.to_vector<double>(), y = b.to_vector<double>();
  double total = 0;
  for (size_t i = 0; i < x.size(); ++i) total += x[i] * y[i];
  return total;
}

/// <a, b> == <c, d>, to the rounding of the results. `terms` bounds the length of the sums inside.
void check_same_inner(const Tensor& a, const Tensor& b, const Tensor& c, const Tensor& d, double terms) {
  double size = 0;
  for (const auto& [l, r] : {std::pair{&a, &b}, std::pair{&c, &d}}) {
    const double norms = std::sqrt(inner(*l, *l) * inner(*r, *r));
    size = std::max(size, norms);
  }
  const double left = inner(a, b), right = inner(c, d);
  CHECK(std::abs(left - right) <= (terms + 8) * eps_of(a.dtype()) * size * 4);
}

}  // namespace

// --- views ------------------------------------------------------------------------------------------------

TEST_CASE("properties: slice, permute, transpose, expand, unsqueeze and squeeze move indices") {
  for_each_setting(25, [](TensorOptions options) {
    const Shape shape = pick_shape(1);
    const int rank = shape.rank();
    const Tensor t = pick_tensor(shape, options);
    const Plain p = plain(t);

    const int axis = static_cast<int>(pick(0, rank - 1));
    const int64_t n = shape[axis], begin = pick(0, n), end = pick(begin, n), step = pick(1, 3);
    const bool from_end = coin() && begin < n && end < n;
    const Tensor s =
        t.slice(coin() ? axis : axis - rank, from_end ? begin - n : begin, from_end ? end - n : end, step);
    std::vector<int64_t> kept;
    for (int64_t i = begin; i < end; i += step) kept.push_back(i);
    CHECK(s.size(axis) == static_cast<int64_t>(kept.size()));
    CHECK(s.shares_storage(t));
    Plain cut(s.shape());
    for (Index i(s.shape()); i.valid(); i.next()) {
      auto at = i.at;
      at[static_cast<size_t>(axis)] = kept[static_cast<size_t>(at[static_cast<size_t>(axis)])];
      cut.set(i.at, p(at));
    }
    check_close(s, cut, 0);

    std::vector<int> reversed;
    for (int i = 0; i < rank; ++i)
      if (coin()) reversed.push_back(coin() ? i : i - rank);
    const Tensor flipped = t.flip(reversed);
    Plain mirrored(shape);
    for (Index i(shape); i.valid(); i.next()) {
      auto at = i.at;
      for (int a : reversed) {
        const auto k = static_cast<size_t>(a < 0 ? a + rank : a);
        at[k] = shape[static_cast<int>(k)] - 1 - at[k];
      }
      mirrored.set(i.at, p(at));
    }
    check_close(flipped, mirrored, 0);
    CHECK(flipped.shares_storage(t));

    std::vector<int> order(static_cast<size_t>(rank));
    for (int i = 0; i < rank; ++i) order[static_cast<size_t>(i)] = i;
    std::shuffle(order.begin(), order.end(), generator);
    const auto with_signs = [&] {
      auto signs = order;
      for (int& a : signs) a = coin() ? a : a - rank;
      return signs;
    };
    const Tensor permuted = t.permute(with_signs());
    Plain moved(permuted.shape());
    for (Index i(permuted.shape()); i.valid(); i.next()) {
      auto at = i.at;
      for (size_t k = 0; k < order.size(); ++k) at[static_cast<size_t>(order[k])] = i.at[k];
      moved.set(i.at, p(at));
    }
    check_close(permuted, moved, 0);

    const int a = static_cast<int>(pick(0, rank - 1)), b = static_cast<int>(pick(0, rank - 1));
    const Tensor swapped = t.transpose(coin() ? a : a - rank, coin() ? b : b - rank);
    Plain turned(swapped.shape());
    for (Index i(swapped.shape()); i.valid(); i.next()) {
      auto at = i.at;
      std::swap(at[static_cast<size_t>(a)], at[static_cast<size_t>(b)]);
      turned.set(i.at, p(at));
    }
    check_close(swapped, turned, 0);

    const int at_axis = static_cast<int>(pick(-rank - 1, rank));
    const Tensor wider = t.unsqueeze(at_axis);
    const int where = at_axis < 0 ? at_axis + rank + 1 : at_axis;
    Shape longer;
    for (int i = 0; i <= rank; ++i) {
      if (i == where) longer.push_back(1);
      if (i < rank) longer.push_back(shape[i]);
    }
    CHECK(wider.shape() == longer);
    CHECK(wider.to_vector<double>() == p.value);
    CHECK(wider.squeeze(coin() ? where : where - rank - 1).shape() == shape);
    CHECK(wider.squeeze(where).to_vector<double>() == p.value);

    const Tensor narrow = pick_tensor(pick_narrower(shape), options);
    const Plain q = plain(narrow);
    const Tensor expanded = narrow.expand(shape);
    Plain wide(shape);
    for (Index i(shape); i.valid(); i.next()) wide.set(i.at, q(i.at));
    check_close(expanded, wide, 0);
    CHECK(expanded.shares_storage(narrow));
  });
}

TEST_CASE("properties: reshape, clone, contiguous and conversions keep the row-major order of the elements") {
  for_each_setting(40, [](TensorOptions options) {
    const Shape shape = pick_shape();
    const Tensor t = pick_tensor(shape, options);
    const auto values = t.to_vector<double>();
    // Another shape of the same size: sizes split into factors, in a new grouping, with ones thrown in.
    std::vector<int64_t> factors;
    for (int64_t d : shape) {
      int64_t rest = d;
      for (int64_t f = 2; f * f <= rest; ++f)
        while (rest % f == 0) factors.push_back(f), rest /= f;
      if (rest != 1) factors.push_back(rest);
    }
    Shape target;
    int64_t group = 1;
    for (int64_t f : factors) {
      if (target.rank() < 6 && coin()) target.push_back(group), group = 1;
      group *= f;
    }
    target.push_back(group);
    const Tensor r = t.reshape(target);
    CHECK(r.shape() == target);
    CHECK(r.to_vector<double>() == values);
    CHECK(r.reshape(shape).to_vector<double>() == values);
    if (t.numel() > 0) {
      Shape guessed = target;
      guessed[static_cast<int>(pick(0, target.rank() - 1))] = -1;
      CHECK(t.reshape(guessed).shape() == target);
    }
    if (t.contiguous_layout()) CHECK(r.shares_storage(t));

    const Tensor c = t.clone();
    CHECK(c.contiguous_layout());
    CHECK_FALSE(c.shares_storage(t));
    CHECK(c.strides() == contiguous_strides(shape));
    CHECK(c.to_vector<double>() == values);
    CHECK(t.contiguous().contiguous_layout());
    CHECK(t.contiguous().shares_storage(t) == t.contiguous_layout());
    Device& other = options.device == &cpu_device() ? reference_device() : cpu_device();
    CHECK(t.to(other).to_vector<double>() == values);
    CHECK(&t.to(other).device() == &other);
    CHECK(t.to(*options.device).shares_storage(t));
    CHECK(t.to(options.dtype).shares_storage(t));
    CHECK(t.to(DType::f64).to_vector<double>() == values);
    CHECK(t.to(DType::f64).dtype() == DType::f64);
  });
}

TEST_CASE("properties: writes through views reach exactly the elements of the view") {
  for_each_setting(25, [](TensorOptions options) {
    const Shape shape = pick_shape(1);
    const Tensor t = pick_tensor(shape, options).clone();
    Plain p = plain(t);
    const int axis = static_cast<int>(pick(0, shape.rank() - 1));
    const int64_t begin = pick(0, shape[axis]), end = pick(begin, shape[axis]);
    const Tensor window = t.slice(axis, begin, end).transpose(0, -1);
    const Tensor source = pick_tensor(pick_narrower(window.shape()), options);
    const Plain from = plain(source);
    const uint64_t version = t.version();
    window.copy_(source);
    CHECK(t.version() == version + 1);
    for (Index i(window.shape()); i.valid(); i.next()) {
      auto at = i.at;
      std::swap(at.front(), at.back());
      at[static_cast<size_t>(axis)] += begin;
      p.set(at, from(i.at));
    }
    check_close(t, p, 0);
    window.fill_(0.5);
    for (Index i(window.shape()); i.valid(); i.next()) {
      auto at = i.at;
      std::swap(at.front(), at.back());
      at[static_cast<size_t>(axis)] += begin;
      p.set(at, 0.5);
    }
    check_close(t, p, 0);
    CHECK(t.version() == version + 2);
  });
}

TEST_CASE("properties: pad surrounds, stack piles up; slices undo both") {
  for_each_setting(20, [](TensorOptions options) {
    const Shape shape = pick_shape(1, 3, 500);
    const Tensor x = pick_tensor(shape, options);
    const Plain p = plain(x);
    std::vector<int64_t> before, after;
    Shape larger = shape;
    for (int i = 0; i < shape.rank(); ++i) {
      before.push_back(pick(0, 2));
      after.push_back(pick(0, 2));
      larger[i] += before.back() + after.back();
    }
    Plain want(larger);
    for (Index i(larger); i.valid(); i.next()) want.set(i.at, -7);
    for (Index i(shape); i.valid(); i.next()) {
      auto at = i.at;
      for (size_t k = 0; k < at.size(); ++k) at[k] += before[k];
      want.set(at, p(i.at));
    }
    check_close(pad(x, before, after, -7), want, 0);
    CHECK(sum(pad(x, before, after)).item() == doctest::Approx(sum(x).item()));

    const int axis = static_cast<int>(pick(-shape.rank() - 1, shape.rank()));
    const Tensor y = pick_tensor(shape, options), pile = stack(std::vector<Tensor>{x, y, x}, axis);
    const int where = axis < 0 ? axis + shape.rank() + 1 : axis;
    CHECK(pile.size(where) == 3);
    CHECK(pile.slice(where, 0, 1).squeeze(where).to_vector<double>() == p.value);
    CHECK(pile.slice(where, 1, 2).squeeze(where).to_vector<double>() == y.to_vector<double>());
    CHECK(pile.slice(where, 2, 3).squeeze(where).to_vector<double>() == p.value);
  });
}

TEST_CASE("properties: concat puts its parts beside each other, and slices undo it") {
  for_each_setting(25, [](TensorOptions options) {
    const Shape shape = pick_shape(1, 4, 1000);
    const int rank = shape.rank(), axis = static_cast<int>(pick(0, rank - 1));
    std::vector<Tensor> parts;
    int64_t total = 0;
    for (int64_t k = pick(1, 4); k > 0; --k) {
      Shape s = shape;
      s[axis] = pick(0, 5);
      total += s[axis];
      parts.push_back(pick_tensor(s, options));
    }
    const Tensor all = concat(parts, coin() ? axis : axis - rank);
    CHECK(all.size(axis) == total);
    int64_t begin = 0;
    for (const Tensor& part : parts) {
      CHECK(all.slice(axis, begin, begin + part.size(axis)).to_vector<double>() == part.to_vector<double>());
      begin += part.size(axis);
    }
  });
}

// --- elementwise ------------------------------------------------------------------------------------------

namespace {
/// x (1 + tanh(u)) / 2 with u = sqrt(2 / pi) (x + c x^3), and its derivatives by hand.
struct GeluTanh {
  double value, slope, curvature;
  explicit GeluTanh(double x) {
    const double k = std::sqrt(2 / std::acos(-1.0)), c = 0.044715;
    const double t = std::tanh(k * (x + c * x * x * x)), rest = 1 - t * t;
    const double du = k * (1 + 3 * c * x * x), ddu = k * 6 * c * x;
    value = x * (1 + t) / 2;
    slope = (1 + t) / 2 + x * rest * du / 2;
    curvature = rest * du + x * (rest * ddu - 2 * t * rest * du * du) / 2;
  }
};
}  // namespace

TEST_CASE("properties: functions of one argument against the C library, with their derivatives") {
  struct Row {
    UnaryOp op;
    double low, high;
    std::function<double(double)> value, slope, curvature;
  };
  const auto s = [](double x) { return 1 / (1 + std::exp(-x)); };
  const double p0 = 1.75, p1 = -0.5, pi = std::acos(-1.0);
  const auto density = [pi](double x) { return 2 / std::sqrt(pi) * std::exp(-x * x); };  // slope of erf
  const auto normal = [pi](double x) { return std::exp(-x * x / 2) / std::sqrt(2 * pi); };
  const auto phi = [](double x) { return 0.5 * std::erfc(-x / std::sqrt(2.0)); };
  const Row rows[] = {
      {UnaryOp::affine, -3, 3, [=](double x) { return p0 * x + p1; }, [=](double) { return p0; },
       [](double) { return 0.0; }},
      {UnaryOp::exp, -80, 80, [](double x) { return std::exp(x); }, [](double x) { return std::exp(x); },
       [](double x) { return std::exp(x); }},
      {UnaryOp::log, 1e-3, 50, [](double x) { return std::log(x); }, [](double x) { return 1 / x; },
       [](double x) { return -1 / (x * x); }},
      {UnaryOp::sqrt, 1e-3, 50, [](double x) { return std::sqrt(x); },
       [](double x) { return 0.5 / std::sqrt(x); }, [](double x) { return -0.25 / (x * std::sqrt(x)); }},
      {UnaryOp::sin, -6, 6, [](double x) { return std::sin(x); }, [](double x) { return std::cos(x); },
       [](double x) { return -std::sin(x); }},
      {UnaryOp::cos, -6, 6, [](double x) { return std::cos(x); }, [](double x) { return -std::sin(x); },
       [](double x) { return -std::cos(x); }},
      {UnaryOp::tanh, -4, 4, [](double x) { return std::tanh(x); },
       [](double x) { return 1 / (std::cosh(x) * std::cosh(x)); },
       [](double x) { return -2 * std::tanh(x) / (std::cosh(x) * std::cosh(x)); }},
      {UnaryOp::sigmoid, -20, 20, s, [s](double x) { return s(x) * s(-x); },
       [s](double x) { return s(x) * s(-x) * (s(-x) - s(x)); }},
      {UnaryOp::silu, -20, 20, [s](double x) { return x * s(x); },
       [s](double x) { return s(x) + x * s(x) * s(-x); },
       [s](double x) { return s(x) * s(-x) * (2 + x * (s(-x) - s(x))); }},
      {UnaryOp::relu, -2, 2, [](double x) { return x > 0 ? x : 0; },
       [](double x) { return x > 0 ? 1.0 : 0.0; }, [](double) { return 0.0; }},
      {UnaryOp::reciprocal, 0.1, 5, [](double x) { return 1 / x; }, [](double x) { return -1 / (x * x); },
       [](double x) { return 2 / (x * x * x); }},
      {UnaryOp::pow, 0.1, 5, [=](double x) { return std::pow(x, p0); },
       [=](double x) { return p0 * std::pow(x, p0 - 1); },
       [=](double x) { return p0 * (p0 - 1) * std::pow(x, p0 - 2); }},
      {UnaryOp::abs, -2, 2, [](double x) { return std::abs(x); }, [](double x) { return x < 0 ? -1.0 : 1.0; },
       [](double) { return 0.0; }},
      {UnaryOp::leaky_relu, -2, 2, [=](double x) { return x > 0 ? x : p0 * x; },
       [=](double x) { return x > 0 ? 1.0 : p0; }, [](double) { return 0.0; }},
      {UnaryOp::erf, -3, 3, [](double x) { return std::erf(x); }, density,
       [density](double x) { return -2 * x * density(x); }},
      {UnaryOp::gelu, -4, 4, [phi](double x) { return x * phi(x); },
       [phi, normal](double x) { return phi(x) + x * normal(x); },
       [normal](double x) { return normal(x) * (2 - x * x); }},
      {UnaryOp::gelu_tanh, -4, 4, [](double x) { return GeluTanh(x).value; },
       [](double x) { return GeluTanh(x).slope; }, [](double x) { return GeluTanh(x).curvature; }},
      {UnaryOp::softplus, -20, 20, [](double x) { return std::log1p(std::exp(x)); }, s,
       [s](double x) { return s(x) * s(-x); }},
      {UnaryOp::clamp, -2, 2, [](double x) { return std::min(std::max(x, -0.75), 0.5); },
       [](double x) { return x < -0.75 || x > 0.5 ? 0.0 : 1.0; }, [](double) { return 0.0; }},
  };
  for (const Row& row : rows) {
    CAPTURE(name_of(row.op));
    for_each_setting(4, [&](TensorOptions options) {
      const Tensor x = pick_tensor(pick_shape(), options, row.low, row.high),
                   up = pick_tensor(x.shape(), options);
      const Plain px = plain(x), pu = plain(up);
      UnaryArgs args{.op = row.op, .p0 = p0, .p1 = p1};
      if (row.op == UnaryOp::clamp) args.p0 = -0.75, args.p1 = 0.5;
      const std::function<double(double)>* orders[] = {&row.value, &row.slope, &row.curvature};
      for (int order = 0; order < 3; ++order) {
        CAPTURE(order);
        args.derivative = order;
        Plain want(x.shape()), chained(x.shape());
        for (size_t i = 0; i < px.value.size(); ++i) {
          const double y = (*orders[order])(px.value[i]);
          // Terms of the formulas are of the size of the results or 1 (where they cancel, as near a zero of
          // sin); p0 * x is a term of affine.
          const double size =
              row.op == UnaryOp::exp || row.op == UnaryOp::reciprocal || row.op == UnaryOp::sqrt
                  ? std::abs(y)
                  : std::max(1.0, std::abs(y)) + std::abs(order == 0 ? 0.0 : px.value[i]);
          want.value[i] = y;
          want.size[i] = size + (row.op == UnaryOp::affine ? std::abs(p0 * px.value[i]) : 0);
          chained.value[i] = pu.value[i] * y;
          chained.size[i] = std::abs(pu.value[i]) * want.size[i];
        }
        // exp in f32 is good to 2 ulp; nested duals add some.
        check_close(unary(args, x), want, 8 * (order + 1));
        if (order > 0) check_close(unary_chain(args, up, x), chained, 8 * (order + 1) + 1);
      }
    });
  }
}

TEST_CASE("exp in f32 is within 2 ulp of the C library from 2^-125.5 to the largest result") {
  std::vector<float> x;
  for (float v = -104; v < 89; v += 0.0037f) x.push_back(v);
  for (Device* device : {&reference_device(), &cpu_device()}) {
    const auto y =
        unary({.op = UnaryOp::exp}, Tensor::from(x, {static_cast<int64_t>(x.size())}, {DType::f32, device}))
            .to_vector<float>();
    double worst = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      const double want = std::exp(static_cast<double>(x[i]));
      // 0 below 2^-125.5. The kernel finds that bound by x log2(e), which it rounds to a multiple of 2^-17.
      constexpr double kLeast = 0x1p-125 * std::numbers::sqrt2 / 2;
      if (want < kLeast * (1 - 0x1p-17)) CHECK(y[i] == 0);
      if (want < kLeast * (1 + 0x1p-17)) continue;
      if (want > std::numeric_limits<float>::max()) {
        CHECK(std::isinf(y[i]));
        continue;
      }
      const double ulp = std::ldexp(1.0, std::ilogb(want) - 23);
      worst = std::max(worst, std::abs(y[i] - want) / ulp);
    }
    CAPTURE(device->name());
    CHECK(worst <= 2);
    const auto ends =
        unary({.op = UnaryOp::exp},
              Tensor::from(std::vector<float>{-INFINITY, -200, -104, 0, 88.7f, 89, 200, INFINITY, NAN}, {9},
                           {DType::f32, device}))
            .to_vector<float>();
    CHECK(ends[0] == 0);
    CHECK(ends[1] == 0);
    CHECK(ends[2] <= 1e-45f);
    CHECK(ends[3] == 1);
    CHECK(ends[4] == doctest::Approx(std::exp(88.7)).epsilon(1e-5));
    CHECK(std::isinf(ends[5]));
    CHECK(std::isinf(ends[6]));
    CHECK(std::isinf(ends[7]));
    CHECK(std::isnan(ends[8]));
  }
}

TEST_CASE("properties: functions of two arguments, broadcast and in place") {
  struct Row {
    BinaryOp op;
    double roundings;
    std::function<double(double, double)> value;
  };
  const double p = 0.3;
  const Row rows[] = {{BinaryOp::add, 1, [](double a, double b) { return a + b; }},
                      {BinaryOp::subtract, 1, [](double a, double b) { return a - b; }},
                      {BinaryOp::multiply, 1, [](double a, double b) { return a * b; }},
                      {BinaryOp::divide, 1, [](double a, double b) { return a / b; }},
                      {BinaryOp::maximum, 0, [](double a, double b) { return std::max(a, b); }},
                      {BinaryOp::minimum, 0, [](double a, double b) { return std::min(a, b); }},
                      {BinaryOp::less, 0, [](double a, double b) { return a < b ? 1.0 : 0.0; }},
                      {BinaryOp::equal, 0, [](double a, double b) { return a == b ? 1.0 : 0.0; }},
                      {BinaryOp::lerp, 4, [p](double a, double b) { return a + p * (b - a); }}};
  for (const Row& row : rows) {
    CAPTURE(name_of(row.op));
    for_each_setting(8, [&](TensorOptions options) {
      const Shape shape = pick_shape();
      const bool whole = coin(), first = coin();
      Tensor a = pick_tensor(first || whole ? shape : pick_narrower(shape), options),
             b = pick_tensor(!first || whole ? shape : pick_narrower(shape), options);
      if (row.op == BinaryOp::equal || row.op == BinaryOp::less) {  // with ties
        a = a.to(DType::i64).to(options.dtype);
        b = b.to(DType::i64).to(options.dtype);
      }
      const Plain pa = plain(a), pb = plain(b);
      Plain want(shape);
      for (Index i(shape); i.valid(); i.next()) {
        want.set(i.at, row.value(pa(i.at), pb(i.at)));
        if (row.roundings > 0) want.size[want.where(i.at)] += row.op == BinaryOp::lerp ? 4 : 0;
      }
      check_close(binary(row.op, a, b, p), want, row.roundings);
      if (a.shape() == shape) {
        const Tensor target = a.clone();
        const uint64_t version = target.version();
        binary_(row.op, target, b, p);
        check_close(target, want, row.roundings);
        CHECK(target.version() == version + 1);
      }
    });
  }
}

TEST_CASE("properties: where takes one side or the other, with broadcasting") {
  for_each_setting(20, [](TensorOptions options) {
    const Shape shape = pick_shape();
    const int64_t whole = pick(0, 2);  // which of the three has the full shape
    const Tensor condition = pick_tensor(whole == 0 ? shape : pick_narrower(shape), options, -2, 2)
                                 .to(DType::i64)
                                 .to(options.dtype);
    const Tensor a = pick_tensor(whole == 1 ? shape : pick_narrower(shape), options),
                 b = pick_tensor(whole == 2 ? shape : pick_narrower(shape), options);
    const Plain pc = plain(condition), pa = plain(a), pb = plain(b);
    Plain want(shape);
    for (Index i(shape); i.valid(); i.next()) want.set(i.at, pc(i.at) != 0 ? pa(i.at) : pb(i.at));
    check_close(where(condition, a, b), want, 0);
  });
}

// --- reductions -------------------------------------------------------------------------------------------

TEST_CASE("properties: sum, mean and max over any axes") {
  for_each_setting(60, [](TensorOptions options) {
    const Shape shape = pick_shape();
    const int rank = shape.rank();
    const Tensor x = pick_tensor(shape, options, -1, 2);
    const Plain p = plain(x);
    const std::vector<int> axes = pick_axes(rank);
    Shape kept = shape, dropped;
    for (int i = 0; i < rank; ++i) {
      if (axes.empty() || listed(axes, i, rank))
        kept[i] = 1;
      else
        dropped.push_back(shape[i]);
    }
    Plain total(kept), largest(kept);
    std::fill(largest.value.begin(), largest.value.end(), -HUGE_VAL);
    for (Index i(shape); i.valid(); i.next()) {
      total.add(i.at, p(i.at));
      largest.value[largest.where(i.at)] = std::max(largest(i.at), p(i.at));
    }
    const double count =
        static_cast<double>(x.numel()) / std::max<double>(1, static_cast<double>(total.value.size()));
    const auto without_ones = [&](Plain q) {
      q.shape = dropped;
      return q;
    };
    check_close(sum(x, axes, true), total, count + 8);
    check_close(sum(x, axes), without_ones(total), count + 8);
    if (x.numel() > 0) {
      Plain average = total;
      for (double& v : average.value) v /= count;
      for (double& v : average.size) v /= count;
      check_close(mean(x, axes, true), average, count + 8);
      check_close(mean(x, axes), without_ones(average), count + 8);
      check_close(max(x, axes, true), largest, 0);
      check_close(max(x, axes), without_ones(largest), 0);
    }
  });
}

TEST_CASE("properties: sum_to is the adjoint of expand, and sums the same elements") {
  for_each_setting(40, [](TensorOptions options) {
    const Shape shape = pick_shape(), narrow = pick_narrower(shape);
    const Tensor x = pick_tensor(shape, options), y = pick_tensor(narrow, options);
    Plain want(narrow);
    const Plain p = plain(x);
    for (Index i(shape); i.valid(); i.next()) want.add(i.at, p(i.at));
    const double count =
        static_cast<double>(x.numel()) / std::max(1.0, static_cast<double>(want.value.size()));
    const Tensor s = sum_to(x, narrow);
    check_close(s, want, count + 8);
    check_same_inner(s, y, x, y.expand(shape), count);
  });
}

TEST_CASE("properties: the sum of squares of many tensors, in f64") {
  for_each_setting(10, [](TensorOptions options) {
    std::vector<Tensor> tensors;
    double want = 0;
    for (int64_t k = pick(1, 4); k > 0; --k) {
      tensors.push_back(pick_tensor(pick_shape(), options));
      for (double v : tensors.back().to_vector<double>()) want += v * v;
    }
    const Tensor got = sum_of_squares(tensors);
    CHECK(got.dtype() == DType::f64);
    CHECK(got.shape() == Shape{});
    // In double, whatever the dtype: a rounding for each of some thousand terms at most.
    CHECK(std::abs(got.item() - want) <= 1e-12 * want);
  });
}

TEST_CASE("properties: min, argmax and argmin along an axis") {
  for_each_setting(30, [](TensorOptions options) {
    const Shape shape = pick_shape(1);
    const int rank = shape.rank(), axis = static_cast<int>(pick(0, rank - 1));
    Tensor x = pick_tensor(shape, options, -3, 3);
    if (coin()) x = x.to(DType::i64).to(options.dtype);  // with ties
    const Plain p = plain(x);
    if (x.numel() == 0) return;
    Shape kept = shape, dropped = shape;
    kept[axis] = 1;
    dropped.erase(axis);
    Plain smallest(kept), largest(kept), first_smallest(kept), first_largest(kept);
    std::fill(smallest.value.begin(), smallest.value.end(), HUGE_VAL);
    std::fill(largest.value.begin(), largest.value.end(), -HUGE_VAL);
    for (Index i(shape); i.valid(); i.next()) {
      const auto at = static_cast<double>(i.at[static_cast<size_t>(axis)]);
      if (p(i.at) < smallest(i.at)) smallest.set(i.at, p(i.at)), first_smallest.set(i.at, at);
      if (p(i.at) > largest(i.at)) largest.set(i.at, p(i.at)), first_largest.set(i.at, at);
    }
    const int named = coin() ? axis : axis - rank;
    check_close(min(x, {named}, true), smallest, 0);
    CHECK(min(x).item() == *std::min_element(p.value.begin(), p.value.end()));
    check_close(argmin(x, named, true), first_smallest, 0);
    check_close(argmax(x, named, true), first_largest, 0);
    CHECK(argmax(x, named).shape() == dropped);
    CHECK(argmin(x, named).dtype() == DType::i64);
  });
}

TEST_CASE("properties: cumulative sums, and sorting in either direction") {
  for_each_setting(30, [](TensorOptions options) {
    const Shape shape = pick_shape(1);
    const int rank = shape.rank(), axis = static_cast<int>(pick(0, rank - 1)),
              named = coin() ? axis : axis - rank;
    Tensor x = pick_tensor(shape, options, -3, 3);
    if (coin()) x = x.to(DType::i64).to(options.dtype);
    const Plain p = plain(x);
    const auto k = static_cast<size_t>(axis);
    Plain sums(shape), order(shape), reverse(shape);
    Shape lines = shape;
    lines[axis] = std::min<int64_t>(1, shape[axis]);
    for (Index line(lines); line.valid(); line.next()) {
      const auto value = [&](int64_t i) {
        auto at = line.at;
        at[k] = i;
        return p(at);
      };
      double total = 0, size = 0;
      std::vector<int64_t> up(static_cast<size_t>(shape[axis]));
      for (int64_t i = 0; i < shape[axis]; ++i) {
        auto at = line.at;
        at[k] = i;
        total += value(i);
        size += std::abs(value(i));
        sums.value[sums.where(at)] = total;
        sums.size[sums.where(at)] = size;
        up[static_cast<size_t>(i)] = i;
      }
      auto down = up;
      std::stable_sort(up.begin(), up.end(), [&](int64_t a, int64_t b) { return value(a) < value(b); });
      std::stable_sort(down.begin(), down.end(), [&](int64_t a, int64_t b) { return value(a) > value(b); });
      for (int64_t i = 0; i < shape[axis]; ++i) {
        auto at = line.at;
        at[k] = i;
        order.set(at, static_cast<double>(up[static_cast<size_t>(i)]));
        reverse.set(at, static_cast<double>(down[static_cast<size_t>(i)]));
      }
    }
    check_close(cumulative_sum(x, named), sums, static_cast<double>(shape[axis]) + 8);
    check_close(argsort(x, named), order, 0);
    check_close(argsort(x, named, true), reverse, 0);
    const auto sorted = [&](const Plain& by) {
      Plain result(shape);
      for (Index i(shape); i.valid(); i.next()) {
        auto at = i.at;
        at[k] = static_cast<int64_t>(by(i.at));
        result.set(i.at, p(at));
      }
      return result;
    };
    check_close(sort(x, named), sorted(order), 0);
    check_close(sort(x, named, true), sorted(reverse), 0);
  });
}

TEST_CASE("properties: gather picks, scatter_add is its adjoint, one_hot and arange are cases of them") {
  for_each_setting(30, [](TensorOptions options) {
    const Shape shape = pick_shape(1, 4);
    const int rank = shape.rank(), axis = static_cast<int>(pick(0, rank - 1)),
              named = coin() ? axis : axis - rank;
    if (shape[axis] == 0) return;
    const auto k = static_cast<size_t>(axis);
    const Tensor x = pick_tensor(shape, options);
    // Indices of x's shape, or broadcast off the axis.
    Shape out_shape = shape, index_shape = shape;
    out_shape[axis] = index_shape[axis] = pick(0, 9);
    for (int i = 0; i < rank; ++i)
      if (i != axis && coin()) index_shape[i] = 1;
    std::vector<int64_t> places(static_cast<size_t>(numel(index_shape)));
    for (int64_t& v : places) v = pick(0, shape[axis] - 1);
    const Tensor index = Tensor::from(places, index_shape, {DType::i64, options.device});
    const Plain p = plain(x), pi = plain(index);
    Plain want(out_shape);
    for (Index i(out_shape); i.valid(); i.next()) {
      auto at = i.at;
      at[k] = static_cast<int64_t>(pi(i.at));
      want.set(i.at, p(at));
    }
    const Tensor got = gather(x, named, index);
    check_close(got, want, 0);
    check_close(gather(x.to(DType::i64), named, index), plain(got.to(DType::i64)), 0);

    const Tensor source = pick_tensor(out_shape, options);
    const Plain q = plain(source);
    Plain sums(shape);
    for (Index i(out_shape); i.valid(); i.next()) {
      auto at = i.at;
      at[k] = static_cast<int64_t>(pi(i.at));
      sums.add(at, q(i.at));
    }
    const Tensor scattered = scatter_add(source, named, index, shape[axis]);
    check_close(scattered, sums, 16);
    check_same_inner(got, source, x, scattered, 16);

    const int64_t classes = shape[axis];
    const Tensor hot = one_hot(index, classes, options.dtype);
    CHECK(hot.size(-1) == classes);
    CHECK(hot.dtype() == options.dtype);
    check_close(argmax(hot, -1), pi, 0);
    CHECK(sum(hot).item() == static_cast<double>(index.numel()));
    const auto numbers = arange(classes, options).to_vector<double>();
    for (int64_t i = 0; i < classes; ++i) CHECK(numbers[static_cast<size_t>(i)] == static_cast<double>(i));
  });
}

// --- products ---------------------------------------------------------------------------------------------

TEST_CASE("properties: matmul with any leading axes and layouts, against three loops") {
  for_each_setting(40, [](TensorOptions options) {
    const Shape lead = pick_shape(0, 2, 12);
    const int64_t m = pick_size(), k = pick_size(), n = pick_size();
    const bool first = coin();
    Shape a_shape = first ? lead : pick_narrower(lead), b_shape = first ? pick_narrower(lead) : lead,
          c_shape = lead;
    for (const auto& [s, rows, columns] :
         {std::tuple{&a_shape, m, k}, std::tuple{&b_shape, k, n}, std::tuple{&c_shape, m, n}}) {
      s->push_back(rows);
      s->push_back(columns);
    }
    const Tensor a = pick_tensor(a_shape, options), b = pick_tensor(b_shape, options);
    const Tensor bias = coin() ? pick_tensor({n}, options) : Tensor();
    const Plain pa = plain(a), pb = plain(b);
    Plain want(c_shape);
    for (Index i(c_shape); i.valid(); i.next()) {
      auto left = i.at, right = i.at;
      const size_t last = i.at.size() - 1;
      for (int64_t l = 0; l < k; ++l) {
        left[last] = l;
        right[last - 1] = l;
        want.add(i.at, pa(left) * pb(right));
      }
      if (bias.defined()) want.add(i.at, bias.slice(0, i.at[last], i.at[last] + 1).item());
    }
    check_close(matmul(a, b, bias), want, static_cast<double>(k) + 8);
  });
}

TEST_CASE("properties: the three passes of a convolution are adjoints of one bilinear form") {
  for_each_setting(50, [](TensorOptions options) {
    Conv2dGeometry g{static_cast<int>(pick(1, 3)), static_cast<int>(pick(1, 3)),
                     static_cast<int>(pick(0, 2)), static_cast<int>(pick(0, 2)),
                     static_cast<int>(pick(0, 2)), static_cast<int>(pick(0, 2))};
    const bool grouped = coin();
    g.groups = grouped ? static_cast<int>(pick(1, 4)) : 1;
    g.dilation_h = coin() ? static_cast<int>(pick(1, 3)) : 1;
    g.dilation_w = coin() ? static_cast<int>(pick(1, 3)) : 1;
    // Per group; in total.
    const int64_t in = pick(1, grouped ? 5 : 18), out = pick(1, grouped ? 5 : 18), all_in = in * g.groups,
                  all_out = out * g.groups;
    const int64_t kh = pick(1, 4), kw = pick(1, 4), batch = pick(1, 3);
    const int64_t span_h = g.dilation_h * (kh - 1) + 1, span_w = g.dilation_w * (kw - 1) + 1;
    const int64_t h = span_h + pick(0, 5), w = span_w + pick(0, 5);
    const int64_t oh = (h + g.pad_top + g.pad_bottom - span_h) / g.stride_h + 1,
                  ow = (w + g.pad_left + g.pad_right - span_w) / g.stride_w + 1;
    const Tensor x = pick_tensor({batch, h, w, all_in}, options),
                 kernel = pick_tensor({kh, kw, in, all_out}, options),
                 dy = pick_tensor({batch, oh, ow, all_out}, options);
    const Tensor bias = coin() ? pick_tensor({all_out}, options) : Tensor();
    const Plain px = plain(x), pk = plain(kernel);
    Plain want({batch, oh, ow, all_out});
    for (Index i(want.shape); i.valid(); i.next()) {
      const int64_t first = i.at[3] / out * in;  // channel of the image that the group begins with
      for (Index t({kh, kw, in}); t.valid(); t.next()) {
        const int64_t row = i.at[1] * g.stride_h + t.at[0] * g.dilation_h - g.pad_top,
                      column = i.at[2] * g.stride_w + t.at[1] * g.dilation_w - g.pad_left;
        if (row >= 0 && row < h && column >= 0 && column < w)
          want.add(i.at,
                   px({i.at[0], row, column, first + t.at[2]}) * pk({t.at[0], t.at[1], t.at[2], i.at[3]}));
      }
      if (bias.defined()) want.add(i.at, bias.slice(0, i.at[3], i.at[3] + 1).item());
    }
    const double terms = static_cast<double>(kh * kw * in);
    check_close(conv2d(x, kernel, bias, g), want, terms + 8);

    const Tensor y = conv2d(x, kernel, {}, g);
    const Tensor dx = conv2d_backward_data(dy, kernel, h, w, g);
    const Tensor dk = conv2d_backward_kernel(x, dy, kh, kw, g);
    const double most =
        std::max({terms, static_cast<double>(kh * kw * out), static_cast<double>(batch * oh * ow)});
    check_same_inner(y, dy, x, dx, most);
    check_same_inner(y, dy, kernel, dk, most);

    // The transposed convolution is the middle one, for the image whose last rows and columns are used.
    const int rest_h = static_cast<int>((h + g.pad_top + g.pad_bottom - span_h) % g.stride_h),
              rest_w = static_cast<int>((w + g.pad_left + g.pad_right - span_w) % g.stride_w);
    const Tensor shift = coin() ? pick_tensor({all_in}, options) : Tensor();
    Plain moved = plain(dx);
    for (Index i(moved.shape); i.valid(); i.next())
      if (shift.defined()) moved.add(i.at, shift.slice(0, i.at[3], i.at[3] + 1).item());
    check_close(conv_transpose2d(dy, kernel, shift, g, rest_h, rest_w), moved, 2);
  });
}

TEST_CASE("properties: max pooling takes the first largest pixel of its window, never the padding") {
  for_each_setting(30, [](TensorOptions options) {
    const int window_h = static_cast<int>(pick(1, 3)), window_w = static_cast<int>(pick(1, 3));
    Conv2dGeometry g{static_cast<int>(pick(1, 3)), static_cast<int>(pick(1, 3))};
    // Less padding than window on every side, so that no window lies in it.
    g.pad_top = static_cast<int>(pick(0, window_h - 1));
    g.pad_bottom = static_cast<int>(pick(0, window_h - 1));
    g.pad_left = static_cast<int>(pick(0, window_w - 1));
    g.pad_right = static_cast<int>(pick(0, window_w - 1));
    const int64_t h = window_h + pick(0, 4), w = window_w + pick(0, 4), channels = pick(1, 17),
                  batch = pick(1, 2);
    const int64_t oh = (h + g.pad_top + g.pad_bottom - window_h) / g.stride_h + 1,
                  ow = (w + g.pad_left + g.pad_right - window_w) / g.stride_w + 1;
    Tensor x = pick_tensor({batch, h, w, channels}, options, -3, -0.5);  // below the 0 of other paddings
    if (coin()) x = x.to(DType::i64).to(options.dtype);
    const Plain p = plain(x);
    Plain largest({batch, oh, ow, channels}), place({batch, oh, ow, channels});
    for (Index i(largest.shape); i.valid(); i.next()) {
      double best = -HUGE_VAL;
      for (Index t({window_h, window_w}); t.valid(); t.next()) {
        const int64_t row = i.at[1] * g.stride_h + t.at[0] - g.pad_top,
                      column = i.at[2] * g.stride_w + t.at[1] - g.pad_left;
        if (row < 0 || row >= h || column < 0 || column >= w) continue;
        const double v = p({i.at[0], row, column, i.at[3]});
        if (v <= best) continue;
        best = v;
        largest.set(i.at, v);
        place.set(i.at, static_cast<double>(row * w + column));
      }
    }
    const auto result = max_pool2d(x, window_h, window_w, g);
    check_close(result.y, largest, 0);
    check_close(result.index, place, 0);
    CHECK(result.index.dtype() == DType::i64);
  });
}

// --- normalisation, attention -----------------------------------------------------------------------------

TEST_CASE("properties: softmax is positive, sums to 1, knows no shift, and its gradient sums to 0") {
  for_each_setting(25, [](TensorOptions options) {
    const Shape shape = pick_shape(1, 4);
    const Tensor x = pick_tensor(shape, options, -6, 6), dy = pick_tensor(shape, options);
    const Plain p = plain(x), q = plain(dy);
    const int64_t n = shape.back(), rows = n ? x.numel() / n : 0;
    Plain want(shape), slope(shape), ones(sum(x, {-1}).shape());
    for (int64_t r = 0; r < rows; ++r) {
      const double* row = p.value.data() + r * n;
      const double top = *std::max_element(row, row + n);
      double total = 0, weighted = 0;
      for (int64_t j = 0; j < n; ++j) total += std::exp(row[j] - top);
      for (int64_t j = 0; j < n; ++j)
        weighted += std::exp(row[j] - top) / total * q.value[static_cast<size_t>(r * n + j)];
      for (int64_t j = 0; j < n; ++j) {
        const auto at = static_cast<size_t>(r * n + j);
        want.value[at] = want.size[at] = std::exp(row[j] - top) / total;
        slope.value[at] = want.value[at] * (q.value[at] - weighted);
        slope.size[at] = want.value[at] * 4;  // |dy| < 2
      }
    }
    std::fill(ones.value.begin(), ones.value.end(), 1.0);
    std::fill(ones.size.begin(), ones.size.end(), 1.0);
    // x - max is below 12: its rounding is 12 eps of the exponential; then the sum of n terms.
    const double roundings = 12 + static_cast<double>(n) + 8;
    const Tensor y = softmax(x);
    check_close(y, want, roundings);
    if (n > 0) check_close(sum(y, {-1}), ones, roundings);
    check_close(softmax(affine(x, 1, 100)), want, roundings + 2 * 106);
    check_close(softmax_backward(dy, y), slope, 2 * roundings);
  });
}

TEST_CASE("softmax and attention of large numbers do not overflow") {
  for_each_setting(1, [](TensorOptions options) {
    const auto row = [&](std::vector<double> v) {
      return Tensor::from(v, {1, static_cast<int64_t>(v.size())}, options);
    };
    const double e = std::exp(-1.0);
    const auto check = [&](const Tensor& got, const std::vector<double>& want) {
      const auto values = got.to_vector<double>();
      for (size_t i = 0; i < want.size(); ++i)
        CHECK(std::abs(values[i] - want[i]) <= 16 * eps_of(options.dtype));
    };
    check(softmax(row({1000, 999, -1000})), {1 / (1 + e), e / (1 + e), 0});
    check(softmax(row({-1000, -999, -3000})), {e / (1 + e), 1 / (1 + e), 0});
    check(softmax(row({-HUGE_VAL, 0, -HUGE_VAL, 0})), {0, 0.5, 0, 0.5});
    CHECK(std::isnan(softmax(row({0, NAN, 1})).to_vector<double>()[0]));
    // Scores of 1000, 999 and -1000.
    const Tensor q = Tensor::from(std::vector<double>{1}, {1, 1, 1, 1}, options),
                 k = Tensor::from(std::vector<double>{1000, 999, -1000}, {1, 3, 1, 1}, options),
                 v = Tensor::from(std::vector<double>{0, 1, 5}, {1, 3, 1, 1}, options);
    const auto result = attention(q, k, v, 1);
    check(result.out, {e / (1 + e)});
    CHECK(std::abs(result.log_sum_exp.item() - (1000 + std::log(1 + e))) <= 1000 * 2 * eps_of(options.dtype));
    const auto low = attention(q, affine(k, 1, -2000), v, 1);
    check(low.out, {e / (1 + e)});
    for (const Tensor& g :
         {attention_backward(q, q, k, v, result, 1).dq, attention_backward(q, q, k, v, result, 1).dk})
      for (double d : g.to_vector<double>()) CHECK(std::isfinite(d));
  });
}

TEST_CASE("properties: group norm leaves mean 0 and variance 1, then gain, bias and activation") {
  for_each_setting(20, [](TensorOptions options) {
    const int groups = static_cast<int>(pick(1, 4));
    const int64_t channels = groups * pick(1, 9), batch = pick(1, 4);
    Shape shape{batch};
    for (int64_t k = pick(0, 2); k > 0; --k) shape.push_back(pick(1, 6));
    shape.push_back(channels);
    const Tensor x = pick_tensor(shape, options, -1, 3);
    const int64_t rows = coin() ? batch : 1;
    const Shape row_shape = coin() && rows == 1 ? Shape{channels} : Shape{rows, channels};
    const Tensor gain = pick_tensor(row_shape, options), bias = pick_tensor(row_shape, options);
    const Activation activation = coin() ? Activation::silu : Activation::none;
    const double eps = 1e-2;
    const auto result = group_norm(x, gain, bias, groups, eps, activation);

    const Plain p = plain(x), pg = plain(gain), pb = plain(bias);
    const int64_t pixels = x.numel() / (batch * channels), width = channels / groups;
    Plain want(shape), means({batch, groups}), rstds({batch, groups});
    double largest = 0;
    for (int64_t b = 0; b < batch; ++b)
      for (int64_t g = 0; g < groups; ++g) {
        const auto at = [&](int64_t i, int64_t c) {
          return static_cast<size_t>((b * pixels + i) * channels + g * width + c);
        };
        double total = 0, squares = 0;
        for (int64_t i = 0; i < pixels; ++i)
          for (int64_t c = 0; c < width; ++c) total += p.value[at(i, c)];
        const double count = static_cast<double>(pixels * width), average = total / count;
        for (int64_t i = 0; i < pixels; ++i)
          for (int64_t c = 0; c < width; ++c) squares += std::pow(p.value[at(i, c)] - average, 2);
        const double rstd = 1 / std::sqrt(squares / count + eps);
        means.value[static_cast<size_t>(b * groups + g)] = average;
        rstds.value[static_cast<size_t>(b * groups + g)] = rstd;
        largest = std::max(largest, rstd);
        for (int64_t i = 0; i < pixels; ++i)
          for (int64_t c = 0; c < width; ++c) {
            const double u =
                (p.value[at(i, c)] - average) * rstd * pg({b, g * width + c}) + pb({b, g * width + c});
            want.value[at(i, c)] = activation == Activation::silu ? u / (1 + std::exp(-u)) : u;
          }
      }
    for (Plain* q : {&want, &means, &rstds}) std::fill(q->size.begin(), q->size.end(), 1 + 2 * largest * 3);
    check_close(result.y, want, 40);
    check_close(result.mean, means, 10);
    check_close(result.rstd, rstds, 40);
  });
}

TEST_CASE("properties: attention is a weighted mean of v, with the weights' logarithm kept") {
  for_each_setting(20, [](TensorOptions options) {
    const int64_t batch = pick(1, 2), length = pick(1, 20), keys = pick(1, 20), heads = pick(1, 3),
                  width = pick(1, 17);
    const Tensor q = pick_tensor({batch, length, heads, width}, options),
                 k = pick_tensor({batch, keys, heads, width}, options),
                 v = pick_tensor({batch, keys, heads, width}, options);
    const double scale = coin() ? 0.25 : -0.5;
    const auto result = attention(q, k, v, scale);
    const Plain pq = plain(q), pk = plain(k), pv = plain(v);
    Plain want({batch, length, heads, width}), lse({batch, heads, length});
    for (int64_t b = 0; b < batch; ++b)
      for (int64_t h = 0; h < heads; ++h)
        for (int64_t i = 0; i < length; ++i) {
          std::vector<double> score(static_cast<size_t>(keys), 0.0);
          double top = -HUGE_VAL, total = 0;
          for (int64_t j = 0; j < keys; ++j) {
            for (int64_t d = 0; d < width; ++d)
              score[static_cast<size_t>(j)] += scale * pq({b, i, h, d}) * pk({b, j, h, d});
            top = std::max(top, score[static_cast<size_t>(j)]);
          }
          for (double s : score) total += std::exp(s - top);
          lse.set({b, h, i}, top + std::log(total));
          for (int64_t j = 0; j < keys; ++j)
            for (int64_t d = 0; d < width; ++d)
              want.add({b, i, h, d},
                       std::exp(score[static_cast<size_t>(j)] - top) / total * pv({b, j, h, d}));
        }
    // Scores are sums of `width` products below 4 * |scale|; their error is the weights' relative error.
    const double roundings = 2 * static_cast<double>(width * width) + static_cast<double>(keys) + 20;
    for (double& s : lse.size) s = 1;
    for (double& s : want.size) s = 2;
    check_close(result.out, want, roundings);
    check_close(result.log_sum_exp, lse, roundings);
  });
}

// --- random -----------------------------------------------------------------------------------------------

TEST_CASE("properties: a draw of rows is a part of any larger draw, on every device and in both dtypes") {
  for_each_setting(10, [](TensorOptions options) {
    const Shape shape = pick_shape(1, 4);
    Shape larger = shape;
    const int64_t before = pick(0, 3);
    larger[0] += before + pick(0, 3);
    const RandomKey key{static_cast<uint64_t>(pick(0, 1 << 30)) << 20, static_cast<uint64_t>(pick(0, 1 << 30))
                                                                           << 10};
    const auto first = static_cast<uint64_t>(pick(0, 1 << 30));
    for (auto draw : {random_normal, random_uniform}) {
      const Tensor part = draw(shape, key, first + static_cast<uint64_t>(before), options);
      const Tensor whole = draw(larger, key, first, {DType::f32, &reference_device()});
      CHECK(part.shape() == shape);
      CHECK(part.to_vector<double>() == whole.slice(0, before, before + shape[0]).to_vector<double>());
    }
    const Tensor x = pick_tensor(shape, options);
    const double p = 0.4;
    const auto y = dropout(x, p, key).to_vector<double>(), values = x.to_vector<double>();
    // Element i of a dropout is element i of one row of uniform numbers.
    const auto u = random_uniform({1, std::max<int64_t>(1, x.numel())}, key, 0, options).to_vector<double>();
    for (size_t i = 0; i < y.size(); ++i) {
      const double want = u[i] >= static_cast<double>(static_cast<float>(p)) ? values[i] / (1 - p) : 0;
      CHECK(std::abs(y[i] - want) <= 4 * eps_of(options.dtype) * std::abs(want));
    }
  });
}
