// Shapes and strides: small fixed-capacity lists of integers, trivially copyable so that they may travel
// inside the argument structs of a Backend.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

namespace halfstep {

inline constexpr int kMaxRank = 8;

/// Up to kMaxRank integers. As a Shape: sizes >= 0, outermost first. As Strides: steps in elements (not
/// bytes).
class Dims {
 public:
  Dims() = default;
  Dims(std::initializer_list<int64_t> values);
  explicit Dims(const std::vector<int64_t>& values);
  /// `rank` copies of `value`.
  static Dims filled(int rank, int64_t value);

  int rank() const { return rank_; }
  int64_t operator[](int i) const { return values_[i]; }
  int64_t& operator[](int i) { return values_[i]; }
  const int64_t* begin() const { return values_; }
  const int64_t* end() const { return values_ + rank_; }
  int64_t back() const { return values_[rank_ - 1]; }

  /// Appends; throws Error beyond kMaxRank.
  void push_back(int64_t value);
  /// Inserts before position `at` (0..rank).
  void insert(int at, int64_t value);
  void erase(int at);

  friend bool operator==(const Dims& a, const Dims& b);

 private:
  int64_t values_[kMaxRank] = {};
  int rank_ = 0;
};

using Shape = Dims;
using Strides = Dims;

/// Number of elements; 1 for a scalar (rank 0).
int64_t numel(const Shape& shape);
/// "(4, 3)"; "()" for a scalar, "(4,)" for rank 1.
std::string str(const Shape& shape);
/// Row-major strides.
Strides contiguous_strides(const Shape& shape);
/// Whether the elements of (shape, strides) lie in row-major order without gaps.
bool is_contiguous(const Shape& shape, const Strides& strides);
/// NumPy broadcasting: align at the last axis; sizes must be equal or 1. Throws Error(where).
Shape broadcast_shapes(const Shape& a, const Shape& b, std::string_view where);
/// Whether `from` broadcasts to exactly `to`.
bool broadcasts_to(const Shape& from, const Shape& to);
/// Maps a possibly negative axis (-1 is the last) to 0..rank-1. Throws Error(where).
int normalize_axis(int axis, int rank, std::string_view where);

}  // namespace halfstep
