// Shapes and strides: the small lists, their words, and the rules of broadcasting and contiguity.
#include "tensor/shape.h"

#include <doctest/doctest.h>

#include "tests/error_of.h"

using namespace halfstep;
using halfstep::test::error_of;

TEST_CASE("dims: insert and erase at every position") {
  for (int at = 0; at <= 3; ++at) {
    CAPTURE(at);
    Shape s{5, 6, 7};
    s.insert(at, 9);
    std::vector<int64_t> expected{5, 6, 7};
    expected.insert(expected.begin() + at, 9);
    CHECK(s == Shape(expected));
    CHECK(s.rank() == 4);
    s.erase(at);
    CHECK(s == Shape{5, 6, 7});
    CHECK(s.rank() == 3);
  }
  Shape full = Dims::filled(kMaxRank, 2);
  CHECK(full.rank() == kMaxRank);
  CHECK(kMaxRank == 8);
  full.erase(kMaxRank - 1);
  full.push_back(3);
  CHECK(full.back() == 3);
  CHECK(full[kMaxRank - 2] == 2);
  const std::string too_many = "[shape] at most 8 axes are supported, got one more";
  CHECK(error_of([&] { full.push_back(1); }) == too_many);
  CHECK(error_of([&] { full.insert(0, 1); }) == too_many);
  CHECK(error_of([] { Shape(std::vector<int64_t>(9, 1)); }) == too_many);
  CHECK(Shape(std::vector<int64_t>(8, 1)).rank() == 8);
  Shape two{1, 2};
  CHECK(error_of([&] { two.insert(3, 1); }) == "[shape] insert position 3 is outside 0..2");
  CHECK(error_of([&] { two.insert(-1, 1); }) == "[shape] insert position -1 is outside 0..2");
  CHECK(error_of([&] { two.erase(2); }) == "[shape] erase position 2 is outside 0..1");
  CHECK(error_of([&] { two.erase(-1); }) == "[shape] erase position -1 is outside 0..1");
  CHECK(two == Shape{1, 2});
}

TEST_CASE("dims: equality is of rank and values") {
  CHECK(Shape{} == Shape{});
  CHECK(Shape{1, 2} == Shape{1, 2});
  CHECK_FALSE(Shape{1, 2} == Shape{1, 3});
  CHECK_FALSE(Shape{1, 2} == Shape{1, 2, 1});
  CHECK_FALSE(Shape{1} == Shape{});
  CHECK(Dims::filled(0, 7) == Shape{});
  CHECK(Dims::filled(2, 7) == Shape{7, 7});
}

TEST_CASE("shapes: their text and their number of elements") {
  CHECK(str({}) == "()");
  CHECK(str({3}) == "(3,)");
  CHECK(str({3, 0}) == "(3, 0)");
  CHECK(str({1, -1, 12}) == "(1, -1, 12)");
  CHECK(numel({}) == 1);
  CHECK(numel({7}) == 7);
  CHECK(numel({2, 3, 4}) == 24);
  CHECK(numel({2, 0, 4}) == 0);
}

TEST_CASE("contiguity: row-major without gaps; axes of size 1 may have any stride") {
  CHECK(contiguous_strides({}) == Strides{});
  CHECK(contiguous_strides({5}) == Strides{1});
  CHECK(contiguous_strides({2, 3, 4}) == Strides{12, 4, 1});
  CHECK(contiguous_strides({2, 1, 4}) == Strides{4, 4, 1});
  CHECK(is_contiguous({}, {}));
  CHECK(is_contiguous({2, 3, 4}, {12, 4, 1}));
  CHECK_FALSE(is_contiguous({2, 3, 4}, {12, 4, 2}));
  CHECK_FALSE(is_contiguous({2, 3, 4}, {12, 5, 1}));
  CHECK_FALSE(is_contiguous({2, 3, 4}, {24, 4, 1}));
  CHECK_FALSE(is_contiguous({3, 4}, {1, 3}));
  CHECK_FALSE(is_contiguous({3}, {0}));
  CHECK(is_contiguous({2, 1, 4}, {4, 77, 1}));
  CHECK(is_contiguous({1, 4}, {0, 1}));
  CHECK(is_contiguous({1}, {9}));
  CHECK(is_contiguous({3, 0}, {5, 5}));
}

TEST_CASE("broadcasting aligns at the last axis; sizes are equal or 1") {
  const auto both = [](const Shape& a, const Shape& b) {
    const Shape c = broadcast_shapes(a, b, "test");
    CHECK(broadcast_shapes(b, a, "test") == c);
    CHECK(broadcasts_to(a, c));
    CHECK(broadcasts_to(b, c));
    return c;
  };
  CHECK(both({}, {}) == Shape{});
  CHECK(both({}, {3}) == Shape{3});
  CHECK(both({4, 1}, {3}) == Shape{4, 3});
  CHECK(both({2, 1, 5}, {7, 1}) == Shape{2, 7, 5});
  CHECK(both({1, 3}, {2, 3}) == Shape{2, 3});
  CHECK(both({1}, {0}) == Shape{0});
  CHECK(both({0, 1}, {4}) == Shape{0, 4});
  const std::string rule = "; sizes must be equal or 1, aligned at the last axis";
  CHECK(error_of([] {
          broadcast_shapes({2, 3}, {2}, "test");
        }) == "[test] shapes do not broadcast: (2, 3) and (2,)" + rule);
  CHECK(error_of([] { broadcast_shapes({0}, {2}, "test"); }) ==
        "[test] shapes do not broadcast: (0,) and (2,)" + rule);

  CHECK(broadcasts_to({}, {}));
  CHECK(broadcasts_to({3}, {2, 3}));
  CHECK(broadcasts_to({1, 3}, {2, 3}));
  CHECK(broadcasts_to({2, 1}, {2, 3}));
  CHECK_FALSE(broadcasts_to({2}, {2, 3}));
  CHECK_FALSE(broadcasts_to({2, 3}, {3}));
  CHECK_FALSE(broadcasts_to({1, 3}, {3}));
  CHECK_FALSE(broadcasts_to({2, 3}, {1, 3}));
  CHECK_FALSE(broadcasts_to({4, 3}, {2, 3}));
}

TEST_CASE("axes count from both ends") {
  CHECK(normalize_axis(0, 3, "test") == 0);
  CHECK(normalize_axis(2, 3, "test") == 2);
  CHECK(normalize_axis(-1, 3, "test") == 2);
  CHECK(normalize_axis(-3, 3, "test") == 0);
  CHECK(error_of([] { normalize_axis(3, 3, "test"); }) ==
        "[test] axis 3 is outside -3..2 of a tensor with 3 axes");
  CHECK(error_of([] { normalize_axis(-4, 3, "test"); }) ==
        "[test] axis -4 is outside -3..2 of a tensor with 3 axes");
  CHECK(error_of([] { normalize_axis(0, 0, "test"); }) ==
        "[test] expected a tensor with axes, got a scalar and axis 0");
}
