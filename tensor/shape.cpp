#include "tensor/shape.h"

#include <algorithm>

#include "tensor/error.h"

namespace halfstep {

Dims::Dims(std::initializer_list<int64_t> values) {
  for (int64_t v : values) push_back(v);
}

Dims::Dims(const std::vector<int64_t>& values) {
  for (int64_t v : values) push_back(v);
}

Dims Dims::filled(int rank, int64_t value) {
  Dims d;
  for (int i = 0; i < rank; ++i) d.push_back(value);
  return d;
}

void Dims::push_back(int64_t value) { insert(rank_, value); }

void Dims::insert(int at, int64_t value) {
  require(rank_ < kMaxRank, "shape", "at most {} axes are supported, got one more", kMaxRank);
  require(at >= 0 && at <= rank_, "shape", "insert position {} is outside 0..{}", at, rank_);
  for (int i = rank_; i > at; --i) values_[i] = values_[i - 1];
  values_[at] = value;
  ++rank_;
}

void Dims::erase(int at) {
  require(at >= 0 && at < rank_, "shape", "erase position {} is outside 0..{}", at, rank_ - 1);
  for (int i = at; i + 1 < rank_; ++i) values_[i] = values_[i + 1];
  values_[--rank_] = 0;
}

bool operator==(const Dims& a, const Dims& b) { return std::equal(a.begin(), a.end(), b.begin(), b.end()); }

int64_t numel(const Shape& shape) {
  int64_t n = 1;
  for (int64_t d : shape) n *= d;
  return n;
}

std::string str(const Shape& shape) {
  std::string s = "(";
  for (int i = 0; i < shape.rank(); ++i) s += (i ? ", " : "") + std::to_string(shape[i]);
  return s + (shape.rank() == 1 ? ",)" : ")");
}

Strides contiguous_strides(const Shape& shape) {
  Strides strides = Dims::filled(shape.rank(), 1);
  for (int i = shape.rank() - 2; i >= 0; --i) strides[i] = strides[i + 1] * shape[i + 1];
  return strides;
}

bool is_contiguous(const Shape& shape, const Strides& strides) {
  if (numel(shape) == 0) return true;
  int64_t expected = 1;
  for (int i = shape.rank() - 1; i >= 0; --i) {
    if (shape[i] != 1 && strides[i] != expected) return false;
    expected *= shape[i];
  }
  return true;
}

Shape broadcast_shapes(const Shape& a, const Shape& b, std::string_view where) {
  Shape out = Dims::filled(std::max(a.rank(), b.rank()), 1);
  for (int i = 1; i <= out.rank(); ++i) {
    const int64_t da = i <= a.rank() ? a[a.rank() - i] : 1;
    const int64_t db = i <= b.rank() ? b[b.rank() - i] : 1;
    if (da != db && da != 1 && db != 1)
      fail(where, "shapes do not broadcast: {} and {}; sizes must be equal or 1, aligned at the last axis",
           str(a), str(b));
    out[out.rank() - i] = da == 1 ? db : da;
  }
  return out;
}

bool broadcasts_to(const Shape& from, const Shape& to) {
  if (from.rank() > to.rank()) return false;
  for (int i = 1; i <= from.rank(); ++i) {
    const int64_t size = from[from.rank() - i];
    if (size != 1 && size != to[to.rank() - i]) return false;
  }
  return true;
}

int normalize_axis(int axis, int rank, std::string_view where) {
  require(rank > 0, where, "expected a tensor with axes, got a scalar and axis {}", axis);
  require(axis >= -rank && axis < rank, where, "axis {} is outside {}..{} of a tensor with {} axes", axis,
          -rank, rank - 1, rank);
  return axis < 0 ? axis + rank : axis;
}

}  // namespace halfstep
