// Contractions by formula, made of sum, permute, reshape and matmul: no rules are needed.
#include <array>
#include <string>

#include "autograd/ops.h"
#include "tensor/error.h"

namespace halfstep {

namespace {
constexpr std::string_view kWhere = "einsum";

struct Formula {
  std::vector<std::string> inputs;  ///< a letter per axis
  std::string output;
};

bool contains(const std::string& letters, char c) { return letters.find(c) != std::string::npos; }

Formula parse(std::string_view text, size_t operands) {
  const size_t arrow = text.find("->");
  require(arrow != std::string_view::npos, kWhere,
          "expected a formula such as \"ij,jk->ik\", got \"{}\" without ->", text);
  Formula f{{""}, ""};
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    std::string& letters = i < arrow ? f.inputs.back() : f.output;
    if (c == ' ' || i == arrow || i == arrow + 1) continue;
    if (c == ',' && i < arrow) {
      f.inputs.emplace_back();
      continue;
    }
    require((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'), kWhere, "expected letters, got '{}' in \"{}\"",
            c, text);
    require(!contains(letters, c), kWhere,
            "expected each axis once in a part of \"{}\", got '{}' twice; diagonals are not supported", text,
            c);
    letters += c;
  }
  require(f.inputs.size() == operands, kWhere, "expected {} operands for \"{}\", got {}", f.inputs.size(),
          text, operands);
  for (const char c : f.output)
    require(contains(f.inputs.front(), c) || contains(f.inputs.back(), c), kWhere,
            "expected an operand with each axis of the result of \"{}\", got none with '{}'", text, c);
  return f;
}

/// The size of every letter.
class Sizes {
 public:
  void add(const Variable& x, const std::string& letters, std::string_view formula) {
    require(x.rank() == static_cast<int>(letters.size()), kWhere, "expected {} axes ('{}' of \"{}\"), got {}",
            letters.size(), letters, formula, str(x.shape()));
    for (size_t i = 0; i < letters.size(); ++i) {
      int64_t& size = sizes_[static_cast<unsigned char>(letters[i])];
      const int64_t given = x.size(static_cast<int>(i));
      require(size < 0 || size == given, kWhere,
              "expected one size for axis '{}' of \"{}\", got {} and {}; sizes are not broadcast", letters[i],
              formula, size, given);
      size = given;
    }
  }
  int64_t product(const std::string& letters) const {
    int64_t n = 1;
    for (const char c : letters) n *= sizes_[static_cast<unsigned char>(c)];
    return n;
  }
  Shape shape(const std::string& letters) const {
    Shape result;
    for (const char c : letters) result.push_back(sizes_[static_cast<unsigned char>(c)]);
    return result;
  }

 private:
  std::array<int64_t, 128> sizes_ = [] {
    std::array<int64_t, 128> none{};
    none.fill(-1);
    return none;
  }();
};

/// x, whose axes are `letters`, with the axes `wanted` in that order; the others are summed over.
Variable arranged(const Variable& x, const std::string& letters, const std::string& wanted) {
  std::vector<int> summed, order;
  std::string left;
  for (size_t i = 0; i < letters.size(); ++i) {
    if (contains(wanted, letters[i]))
      left += letters[i];
    else
      summed.push_back(static_cast<int>(i));
  }
  const Variable kept = summed.empty() ? x : sum(x, summed);
  if (left == wanted) return kept;
  for (const char c : wanted) order.push_back(static_cast<int>(left.find(c)));
  return permute(kept, order);
}
}  // namespace

Variable einsum(std::string_view formula, const Variable& a) {
  const Formula f = parse(formula, 1);
  Sizes().add(a, f.inputs[0], formula);
  return arranged(a, f.inputs[0], f.output);
}

Variable einsum(std::string_view formula, const Variable& a, const Variable& b) {
  const Formula f = parse(formula, 2);
  const std::string &of_a = f.inputs[0], &of_b = f.inputs[1];
  Sizes sizes;
  sizes.add(a, of_a, formula);
  sizes.add(b, of_b, formula);
  // One matrix product per element of the axes that all three share.
  std::string batch, rows, columns, inner;
  for (const char c : f.output) {
    const bool in_a = contains(of_a, c), in_b = contains(of_b, c);
    (in_a && in_b ? batch : in_a ? rows : columns) += c;
  }
  for (const char c : of_a)
    if (contains(of_b, c) && !contains(f.output, c)) inner += c;
  const int64_t n_batch = sizes.product(batch), m = sizes.product(rows), n = sizes.product(columns),
                k = sizes.product(inner);
  const Variable left = reshape(arranged(a, of_a, batch + rows + inner), {n_batch, m, k}),
                 right = reshape(arranged(b, of_b, batch + inner + columns), {n_batch, k, n});
  const std::string joined = batch + rows + columns;
  return arranged(reshape(matmul(left, right), sizes.shape(joined)), joined, f.output);
}

}  // namespace halfstep
