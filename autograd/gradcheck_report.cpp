#include "autograd/internal/gradcheck_report.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <ostream>

namespace halfstep {

namespace detail {

namespace {

constexpr size_t kWidth = 80;

/// Breaks text that starts at column `indent` at spaces; further lines start there, too.
std::string wrap(const std::string& text, size_t indent) {
  std::string result;
  size_t column = indent;
  for (size_t begin = 0; begin < text.size();) {
    size_t end = text.find(' ', begin);
    if (end == std::string::npos) end = text.size();
    const size_t length = end - begin;
    if (begin > 0 && column + 1 + length > kWidth) {
      result += '\n' + std::string(indent, ' ');
      column = indent;
    } else if (begin > 0) {
      result += ' ';
      ++column;
    }
    result.append(text, begin, length);
    column += length;
    begin = end + 1;
  }
  return result;
}

/// "element 7 (1, 2)"; where the multi-index says no more than the flat one it is left out.
std::string describe_element(int64_t element, const Shape& index) {
  return index.rank() > 1 ? fmt::format("{} {}", element, str(index)) : fmt::format("{}", element);
}

std::string describe_place(const GradcheckEntry& e, const GradcheckOptions& options, size_t num_outputs) {
  std::string place = describe_input(e.input, options);
  if (e.element < 0) return place + fmt::format(" along random direction {}", e.direction);
  place.append(" element ").append(describe_element(e.element, e.index));
  if (e.output_element < 0) return place;
  return place + (num_outputs > 1 ? fmt::format(", output {} element ", e.output) : ", output element ") +
         describe_element(e.output_element, e.output_index);
}

std::string explain(const GradcheckEntry& e) {
  switch (e.finding) {
    case GradcheckFinding::kink:
      return fmt::format(
          "the function has a kink there (slope {:.6g} from the left, {:.6g} from the right): check at "
          "another "
          "point",
          e.left, e.right);
    case GradcheckFinding::jump:
      return "the function jumps there: no gradient exists; check at another point";
    case GradcheckFinding::domain_edge:
      return fmt::format(
          "the function is not finite to the {} of that value, the edge of its domain: check at another "
          "point",
          std::isnan(e.left) ? "left" : "right");
    case GradcheckFinding::unreliable:
      return fmt::format(
          "the difference itself is unreliable: other steps give other slopes, so the rule is neither right "
          "nor wrong (a noisy or fast oscillating function? f32 inside?)");
    case GradcheckFinding::not_finite:
      return std::isfinite(e.numeric)
                 ? "the analytic gradient is not finite; NaN never passes"
                 : (std::isfinite(e.analytic) ? "the function itself is not finite there; NaN never passes"
                                              : "NaN never passes");
    case GradcheckFinding::none:
    case GradcheckFinding::mismatch:
      break;
  }
  return {};
}

/// Values side by side, in columns as wide as needed.
std::string table(const std::vector<GradcheckEntry>& entries, const GradcheckOptions& options,
                  size_t num_outputs) {
  std::vector<std::vector<std::string>> rows{
      {"input", "element", "output", "numeric", "analytic", "error", "finding"}};
  for (const GradcheckEntry& e : entries) {
    const auto index = static_cast<size_t>(e.input);
    const std::string name = e.input >= 0 && index < options.input_names.size() ? options.input_names[index]
                                                                                : fmt::format("{}", e.input);
    std::string output =
        e.output_element < 0 ? "projection" : describe_element(e.output_element, e.output_index);
    if (num_outputs > 1 && e.output_element >= 0) output = fmt::format("{}: {}", e.output, output);
    rows.push_back(
        {name.substr(0, 12),
         e.element < 0 ? fmt::format("direction {}", e.direction) : describe_element(e.element, e.index),
         output, fmt::format("{:.6g}", e.numeric), fmt::format("{:.6g}", e.analytic),
         fmt::format("{:.2g}", e.error), std::string(name_of(e.finding))});
  }
  std::vector<size_t> widths(rows[0].size());
  for (const auto& row : rows)
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  std::string text;
  for (const auto& row : rows) {
    std::string line = " ";
    for (size_t i = 0; i < row.size(); ++i) line += fmt::format(" {:<{}}", row[i], widths[i]);
    line.erase(line.find_last_not_of(' ') + 1);
    text.append("\n").append(line);
  }
  return text;
}

/// Mismatches come before places where no gradient exists; within these, most tolerances first, NaN before
/// all.
bool worse(const GradcheckEntry& a, const GradcheckEntry& b) {
  const auto rank = [](const GradcheckEntry& e) {
    return e.finding == GradcheckFinding::mismatch || e.finding == GradcheckFinding::not_finite ? 0 : 1;
  };
  const auto severity = [](const GradcheckEntry& e) {
    const double s = e.error / std::max(e.tolerance, 1e-300);
    return std::isnan(s) ? HUGE_VAL : s;
  };
  if (rank(a) != rank(b)) return rank(a) < rank(b);
  return severity(a) > severity(b);
}

bool close(double a, double b, double scale) {
  return std::abs(a - b) <= 1e-3 * std::max(std::abs(a), std::abs(b)) + 1e-5 * scale;
}

double largest(const std::vector<double>& v) {
  double m = 0;
  for (double x : v)
    if (std::isfinite(x)) m = std::max(m, std::abs(x));
  return m;
}

/// What a factor between analytic and numeric gradients may come from.
std::string explain_factor(double c, const std::string& input, const Shape& shape,
                           const std::vector<Shape>& outputs, const char* where) {
  std::string text = c < 0 && close(c, -1, 0)
                         ? fmt::format("the gradient of {} has the opposite sign {}", input, where)
                         : fmt::format("the gradient of {} is {:.4g} x the numeric one {}", input, c, where);
  if (close(c, 2, 0) || close(c, 0.5, 0)) return text;  // more often a plain factor than an axis of size 2
  const auto look = [&](const Shape& s, const char* whose) {
    const double all = static_cast<double>(numel(s));
    for (int axis = 0; axis < s.rank(); ++axis) {
      const double n = static_cast<double>(s[axis]);
      if (n > 2 && (close(c, n, 0) || close(c, 1 / n, 0)))
        return fmt::format(
            "; {} is the size of axis {} of the {} {}: a mean instead of a sum, or a broadcast "
            "axis not summed?",
            s[axis], axis, whose, str(s));
    }
    if (all > 2 && (close(c, all, 0) || close(c, 1 / all, 0)))
      return fmt::format("; {} is the number of elements of the {} {}: a mean instead of a sum?", numel(s),
                         whose, str(s));
    return std::string();
  };
  std::string hint = look(shape, "input");
  for (const Shape& s : outputs)
    if (hint.empty()) hint = look(s, "output");
  return text + hint;
}

/// The factor c with analytic = c * numeric in all given pairs, or NaN.
double common_factor(const std::vector<double>& analytic, const std::vector<double>& numeric) {
  double an = 0, nn = 0;
  for (size_t k = 0; k < numeric.size(); ++k) {
    an += analytic[k] * numeric[k];
    nn += numeric[k] * numeric[k];
  }
  const double c = an / nn, scale = largest(analytic);
  for (size_t k = 0; k < numeric.size(); ++k)
    if (!close(analytic[k], c * numeric[k], scale)) return std::nan("");
  // One pair always has a factor; only the usual ones say something.
  if (numeric.size() < 2 && !close(c, -1, 0) && !close(c, 2, 0) && !close(c, 0.5, 0)) return std::nan("");
  return c;
}

/// Whether the analytic block equals the numeric one at other places: place(r, c) of the numeric one.
template <class Place>
bool equals_elsewhere(const JacobianBlock& b, double scale, Place place) {
  bool moved = false;
  for (size_t r = 0; r < b.rows; ++r)
    for (size_t c = 0; c < b.columns; ++c) {
      const size_t here = r * b.columns + c, there = place(r, c);
      if (b.ignored[here] || b.ignored[there]) continue;
      if (!close(b.analytic[here], b.numeric[there], scale)) return false;
      moved = moved || here != there;
    }
  return moved;
}

/// Two axes whose exchange turns the analytic gradient into the numeric one.
std::string find_transposed(const JacobianBlock& b, double scale, const std::string& input) {
  for (int p = 0; p < b.shape.rank(); ++p)
    for (int q = p + 1; q < b.shape.rank(); ++q) {
      if (b.shape[p] < 2 || b.shape[q] < 2) continue;
      Shape swapped = b.shape;
      std::swap(swapped[p], swapped[q]);
      const Strides strides = contiguous_strides(b.shape);
      const bool equal = equals_elsewhere(b, scale, [&](size_t r, size_t c) {
        Shape index = index_of(static_cast<int64_t>(c), swapped);  // of an array with these axes exchanged
        std::swap(index[p], index[q]);
        size_t flat = 0;
        for (int a = 0; a < index.rank(); ++a) flat += static_cast<size_t>(index[a] * strides[a]);
        return r * b.columns + flat;
      });
      if (equal)
        return fmt::format(
            "the gradient of {} looks transposed: with axes {} and {} exchanged it would be right", input, p,
            q);
    }
  if (b.rows == b.columns &&
      equals_elsewhere(b, scale, [&](size_t r, size_t c) { return c * b.columns + r; }))
    return fmt::format(
        "the gradient of {} looks transposed: the rule applies the Jacobian where its transpose belongs",
        input);
  return {};
}

bool blocks_equal(const std::vector<double>& a, const std::vector<double>& b, double scale) {
  for (size_t k = 0; k < a.size(); ++k)
    if (!close(a[k], b[k], scale)) return false;
  return true;
}

}  // namespace

std::string describe_input(int input, const GradcheckOptions& options) {
  const auto index = static_cast<size_t>(input);
  return index < options.input_names.size() && !options.input_names[index].empty()
             ? fmt::format("input {} '{}'", input, options.input_names[index])
             : fmt::format("input {}", input);
}

Shape index_of(int64_t element, const Shape& shape) {
  Shape index = Dims::filled(shape.rank(), 0);
  for (int axis = shape.rank() - 1; axis >= 0; --axis) {
    const int64_t size = std::max<int64_t>(shape[axis], 1);
    index[axis] = element % size;
    element /= size;
  }
  return index;
}

std::vector<std::string> diagnose(const std::vector<JacobianBlock>& blocks,
                                  const std::vector<Shape>& output_shapes, const GradcheckOptions& options) {
  std::vector<std::string> hints;
  std::vector<bool> explained(blocks.size());
  for (size_t i = 0; i < blocks.size(); ++i)
    for (size_t j = i + 1; j < blocks.size(); ++j) {
      const JacobianBlock &a = blocks[i], &b = blocks[j];
      const double scale = std::max(largest(a.numeric), largest(b.numeric));
      const auto fails = [](const JacobianBlock& block) {
        return std::find(block.failing.begin(), block.failing.end(), true) != block.failing.end();
      };
      if (a.columns != b.columns || !fails(a) || !fails(b)) continue;
      if (!blocks_equal(a.analytic, b.numeric, scale) || !blocks_equal(b.analytic, a.numeric, scale))
        continue;
      hints.push_back(fmt::format("the gradients of {} and {} look swapped", describe_input(a.input, options),
                                  describe_input(b.input, options)));
      explained[i] = explained[j] = true;
    }
  for (size_t i = 0; i < blocks.size(); ++i) {
    const JacobianBlock& b = blocks[i];
    const std::string input = describe_input(b.input, options);
    std::vector<double> analytic, numeric;  // where it fails
    size_t not_finite = 0, right_and_not_zero = 0;
    bool all_zero = true;
    for (size_t k = 0; k < b.analytic.size(); ++k) {
      if (!std::isfinite(b.analytic[k])) ++not_finite;
      if (b.analytic[k] != 0) all_zero = false;
      if (!b.failing[k]) {
        if (!b.ignored[k] && std::abs(b.numeric[k]) > 1e-6 * largest(b.numeric)) ++right_and_not_zero;
        continue;
      }
      analytic.push_back(b.analytic[k]);
      numeric.push_back(b.numeric[k]);
    }
    if (analytic.empty() || explained[i]) continue;
    if (not_finite > 0) {
      hints.push_back(fmt::format("the gradient of {} is NaN or infinite in {} of {} elements", input,
                                  not_finite, b.analytic.size()));
      continue;
    }
    const double scale = largest(b.numeric);
    if (all_zero) {
      hints.push_back(
          fmt::format("the gradient of {} is zero everywhere: is it detached (detach(), value()), or "
                      "does the rule give none?",
                      input));
      continue;
    }
    if (largest(analytic) == 0) {
      hints.push_back(fmt::format("the gradient of {} is zero in every failing element: a part is missing{}",
                                  input,
                                  b.columns < b.rows ? " (a broadcast axis that is not summed?)" : ""));
      continue;
    }
    if (const std::string transposed = find_transposed(b, scale, input); !transposed.empty()) {
      hints.push_back(transposed);
      continue;
    }
    if (const double c = common_factor(analytic, numeric); std::isfinite(c))
      hints.push_back(explain_factor(c, input, b.shape, output_shapes,
                                     right_and_not_zero == 0 ? "everywhere" : "in every failing element"));
  }
  return hints;
}

std::vector<std::string> diagnose_directions(int input, const std::vector<double>& analytic,
                                             const std::vector<double>& numeric, const Shape& shape,
                                             const std::vector<Shape>& output_shapes,
                                             const GradcheckOptions& options) {
  const std::string name = describe_input(input, options);
  if (largest(analytic) == 0)
    return {
        fmt::format("the gradient of {} is zero everywhere: is it detached (detach(), value()), or does the "
                    "rule give none?",
                    name)};
  if (const double c = common_factor(analytic, numeric); std::isfinite(c))
    return {explain_factor(c, name, shape, output_shapes, "in every direction")};
  return {};
}

void finish_report(GradcheckReport& report, std::vector<GradcheckEntry> failing,
                   const GradcheckEntry& nearest, std::string_view where, const GradcheckOptions& options,
                   size_t num_outputs) {
  report.failed = static_cast<int64_t>(failing.size());
  const size_t listed = std::min(failing.size(), static_cast<size_t>(std::max(options.max_listed, 1)));
  std::partial_sort(failing.begin(), failing.begin() + static_cast<std::ptrdiff_t>(listed), failing.end(),
                    worse);
  int64_t not_mismatches = 0;
  for (const GradcheckEntry& e : failing)
    if (e.finding != GradcheckFinding::mismatch && e.finding != GradcheckFinding::not_finite)
      ++not_mismatches;
  failing.resize(listed);
  report.worst = failing;
  if (failing.empty()) {
    if (nearest.input >= 0) report.worst = {nearest};
  } else {
    report.ok = false;
  }
  if (!report.worst.empty()) {
    const GradcheckEntry& w = report.worst[0];
    report.input = w.input;
    report.element = w.element;
    report.output = w.output;
    report.output_element = w.output_element;
    report.numeric = w.numeric;
    report.analytic = w.analytic;
    report.kink = w.finding == GradcheckFinding::kink;
  }
  if (failing.empty()) return;

  const GradcheckEntry& w = failing[0];
  const std::string place = fmt::format("[{}] {}:", where, describe_place(w, options, num_outputs));
  const std::string values = fmt::format("numeric {:.10g}, analytic {:.10g}", w.numeric, w.analytic);
  std::string text = place + (place.size() + 1 + values.size() > kWidth ? "\n  " : " ") + values;
  text += fmt::format("\n  error {:.3g}, tolerance {:.3g}", w.error, w.tolerance);
  if (w.direction >= 0 && w.element >= 0)
    text += fmt::format("; found along random direction {} by halving", w.direction);
  if (const std::string why = explain(w); !why.empty()) text.append("\n  ").append(wrap(why, 2));
  std::string counts = fmt::format("{} of {} {} fail{}", report.failed, report.checked,
                                   report.full ? "elements of the Jacobian" : "random directions",
                                   report.failed == 1 ? "s" : "");
  if (not_mismatches > 0 && not_mismatches < report.failed)
    counts += fmt::format(", {} of them at kinks or where the difference is no measure", not_mismatches);
  if (report.kinks_skipped > 0) counts += fmt::format("; {} kinks skipped", report.kinks_skipped);
  text.append("\n  ").append(wrap(counts, 2));
  if (failing.size() > 1) text.append(":").append(table(failing, options, num_outputs));
  for (const std::string& hint : report.hints)
    text.append("\n  ").append(wrap(fmt::format("hint: {}", hint), 2));
  report.message = text;
}

}  // namespace detail

std::string_view name_of(GradcheckFinding finding) {
  switch (finding) {
    case GradcheckFinding::none:
      return "none";
    case GradcheckFinding::mismatch:
      return "mismatch";
    case GradcheckFinding::kink:
      return "kink";
    case GradcheckFinding::jump:
      return "jump";
    case GradcheckFinding::domain_edge:
      return "domain edge";
    case GradcheckFinding::unreliable:
      return "unreliable";
    case GradcheckFinding::not_finite:
      return "not finite";
  }
  return "none";
}

std::string str(const GradcheckReport& report) {
  if (!report.ok) return report.message;
  std::string text =
      fmt::format("[gradcheck] ok: {} {}, worst error {:.2g}", report.checked,
                  report.full ? "elements of the Jacobian" : "random directions", report.worst_error);
  if (report.kinks_skipped > 0) text += fmt::format(", {} kinks skipped", report.kinks_skipped);
  return text;
}

std::ostream& operator<<(std::ostream& out, const GradcheckReport& report) { return out << str(report); }

}  // namespace halfstep
