#include "apps/curves.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "tensor/error.h"
#include "tensor/program.h"

namespace halfstep {

namespace {

// --- what is drawn -----------------------------------------------------------------------------------------

struct Point {
  double x = 0, y = 0;  ///< y is NaN where the curve has a gap
};

struct Curve {
  std::vector<Point> reports, smooth;  ///< `smooth` is empty if nothing is smoothed
};

struct Range {
  double low = std::numeric_limits<double>::infinity(), high = -std::numeric_limits<double>::infinity();

  bool empty() const { return low > high; }
  void add(double value) {
    if (!std::isfinite(value)) return;
    low = std::min(low, value);
    high = std::max(high, value);
  }
};

struct Panel {
  std::string title;
  bool log = false;
  Range y;
  std::vector<Curve> curves;  ///< of each stage
};

std::string title_of(const Panel& panel) { return panel.title + (panel.log ? " (log scale)" : ""); }

struct Figure {
  std::vector<std::string> stages;
  std::vector<double> starts;  ///< updates before each stage
  double updates = 0;          ///< of all stages
  std::vector<Panel> panels;
};

/// The mean over the `window` reports around each; gaps stay gaps.
std::vector<Point> smoothed(const std::vector<Point>& points, int64_t window) {
  std::vector<Point> result = points;
  const auto count = static_cast<int64_t>(points.size());
  for (int64_t i = 0; i < count; ++i) {
    if (!std::isfinite(points[i].y)) continue;
    double sum = 0;
    int64_t found = 0;
    for (int64_t j = std::max<int64_t>(0, i - (window - 1) / 2); j <= std::min(count - 1, i + window / 2);
         ++j) {
      if (!std::isfinite(points[j].y)) continue;
      sum += points[j].y;
      ++found;
    }
    result[i].y = sum / static_cast<double>(found);
  }
  return result;
}

/// At most about 2 * kBuckets points that look the same: the least and the greatest of each stretch, and
/// every gap.
std::vector<Point> thinned(const std::vector<Point>& points) {
  constexpr size_t kBuckets = 800;
  if (points.size() <= 2 * kBuckets) return points;
  std::vector<Point> result;
  for (size_t bucket = 0; bucket < kBuckets; ++bucket) {
    const size_t begin = bucket * points.size() / kBuckets, end = (bucket + 1) * points.size() / kBuckets;
    std::vector<size_t> kept{begin, begin};
    bool gap = false;
    for (size_t i = begin; i < end; ++i) {
      if (!std::isfinite(points[i].y)) {
        if (!gap) kept.push_back(i);
        gap = true;
        continue;
      }
      if (!(points[i].y >= points[kept[0]].y)) kept[0] = i;
      if (!(points[i].y <= points[kept[1]].y)) kept[1] = i;
    }
    std::sort(kept.begin(), kept.end());
    kept.erase(std::unique(kept.begin(), kept.end()), kept.end());
    for (const size_t i : kept) result.push_back(points[i]);
  }
  return result;
}

Figure figure_of(const std::string& where, const RunFolder& run, int64_t smooth) {
  require(run.has_reports(), where,
          "'{}' holds no report yet: every log.jsonl is empty; a training writes the first after log_every "
          "updates",
          run.path);
  Figure figure;
  std::vector<const StageLog*> logs;
  for (const StageLog& stage : run.stages) {
    if (stage.reports.empty()) continue;
    logs.push_back(&stage);
    figure.stages.push_back(stage.name);
    figure.starts.push_back(figure.updates);
    figure.updates += static_cast<double>(stage.reports.back().step);
  }
  struct Quantity {
    const char* title;
    double LogReport::*value;
    double log_from;  ///< logarithmic if greatest / least is more, and all are positive
    bool smooth;
  };
  constexpr double kNever = std::numeric_limits<double>::infinity();
  for (const Quantity& q : {Quantity{"Loss", &LogReport::loss, 0, true},
                            Quantity{"Learning rate", &LogReport::learning_rate, kNever, false},
                            Quantity{"Gradient norm", &LogReport::gradient_norm, 20, true},
                            Quantity{"Images per second", &LogReport::images_per_second, kNever, true}}) {
    Panel panel{q.title, false, {}, {}};
    for (size_t i = 0; i < logs.size(); ++i) {
      Curve curve;
      for (const LogReport& report : logs[i]->reports) {
        curve.reports.push_back({figure.starts[i] + static_cast<double>(report.step), report.*q.value});
        panel.y.add(report.*q.value);
      }
      if (smooth > 1 && q.smooth) curve.smooth = thinned(smoothed(curve.reports, smooth));
      curve.reports = thinned(curve.reports);
      panel.curves.push_back(std::move(curve));
    }
    panel.log = panel.y.low > 0 && panel.y.high > q.log_from * panel.y.low;
    figure.panels.push_back(std::move(panel));
  }
  for (const auto& [title, value] :
       {std::pair{"Distance to data", &EvaluationLine::distance_to_data},
        std::pair{"Distance to teacher", &EvaluationLine::distance_to_teacher}}) {
    Panel panel{title, false, {}, {}};
    for (size_t i = 0; i < logs.size(); ++i) {
      Curve& curve = panel.curves.emplace_back();
      for (const EvaluationLine& evaluation : logs[i]->evaluations) {
        if (!std::isfinite(evaluation.*value)) continue;  // not measured is no gap
        curve.reports.push_back({figure.starts[i] + static_cast<double>(evaluation.step), evaluation.*value});
        panel.y.add(evaluation.*value);
      }
    }
    if (!panel.y.empty()) figure.panels.push_back(std::move(panel));
  }
  return figure;
}

// --- axes --------------------------------------------------------------------------------------------------

/// "0.05", "2e-4", "1.5k", "10M"
std::string tick_label(double value) {
  const double size = std::abs(value);
  if (size >= 1e6) return fmt::format("{:g}M", value / 1e6);
  if (size >= 1e3) return fmt::format("{:g}k", value / 1e3);
  if (size == 0 || size >= 1e-3) return fmt::format("{:.6g}", value);
  const int exponent = static_cast<int>(std::floor(std::log10(size) + 1e-9));
  return fmt::format("{:.4g}e{}", value / std::pow(10, exponent), exponent);
}

/// 1, 2 or 5 times a power of ten, so that a length has at most `count` of them.
double nice_step(double length, int count) {
  const double least = length / count, power = std::pow(10, std::floor(std::log10(least)));
  for (const double factor : {1, 2, 5})
    if (factor * power >= least * (1 - 1e-9)) return factor * power;
  return 10 * power;
}

struct Axis {
  double low = 0, high = 1;
  std::vector<double> ticks;
};

/// From 0, or from below it where there are negative values, to a tick.
Axis linear_axis(const Range& range, int count) {
  const double low = std::min(0.0, range.low), high = std::max(0.0, range.high);
  const double step = high > low ? nice_step(high - low, count) : 1;
  Axis axis{std::floor(low / step + 1e-9) * step, std::max(1.0, std::ceil(high / step - 1e-9)) * step, {}};
  for (double k = std::round(axis.low / step); k * step <= axis.high * (1 + 1e-9); ++k)
    axis.ticks.push_back(k * step);
  return axis;
}

/// With a little room; ticks as sparse as three of them allow.
Axis log_axis(const Range& range, int count) {
  const double room = std::max(1.05, std::pow(range.high / range.low, 0.05));
  Axis axis{range.low / room, range.high * room, {}};
  const int first = static_cast<int>(std::floor(std::log10(axis.low))),
            last = static_cast<int>(std::ceil(std::log10(axis.high)));
  const int stride = std::max(1, (last - first) / count);
  for (const std::vector<double>& mantissas :
       {std::vector<double>{1}, {1, 3}, {1, 2, 5}, {1, 1.5, 2, 3, 4, 6, 8}}) {
    axis.ticks.clear();
    for (int exponent = first; exponent <= last; exponent += stride)
      for (const double mantissa : mantissas)
        if (const double tick = mantissa * std::pow(10, exponent); tick >= axis.low && tick <= axis.high)
          axis.ticks.push_back(tick);
    if (axis.ticks.size() >= 3) return axis;
  }
  const double step = nice_step(axis.high - axis.low, count);
  axis.ticks.clear();
  for (double k = std::ceil(axis.low / step); k * step <= axis.high; ++k) axis.ticks.push_back(k * step);
  return axis;
}

// --- gnuplot's language ------------------------------------------------------------------------------------

/// How a picture is drawn, in gnuplot's words.
struct Look {
  std::string ink, muted, line;     ///< colours of text, of small text, of the grid
  std::vector<std::string> stages;  ///< colours
  std::string separator;            ///< colour of the lines between stages
  int x_ticks = 8, y_ticks = 6;
};

std::string quoted(const std::string& text) {
  std::string result = "'";
  for (const char c : text) {
    if (c == '\'') result += '\'';
    result += static_cast<unsigned char>(c) < ' ' ? ' ' : c;
  }
  return result + "'";
}

/// The same colour, partly transparent.
std::string pale(const std::string& colour) { return "#a8" + colour.substr(1); }

std::string tics(const Axis& axis) {
  std::string list;
  for (const double tick : axis.ticks)
    list += fmt::format("{}{} {:.12g}", list.empty() ? "" : ", ", quoted(tick_label(tick)), tick);
  return "(" + list + ")";
}

/// A data block: points joined by lines, and those without a neighbour, which a line would not show.
struct Blocks {
  std::string lines, dots;
};
Blocks blocks_of(const std::vector<Point>& points) {
  Blocks blocks;
  std::vector<Point> joined;
  const auto flush = [&] {
    std::string& block = joined.size() > 1 ? blocks.lines : blocks.dots;
    for (const Point& p : joined) block += fmt::format("{:.12g} {:.9g}\n", p.x, p.y);
    if (joined.size() > 1) block += "\n";  // an empty line breaks the curve
    joined.clear();
  };
  for (const Point& p : points) {
    if (std::isfinite(p.y))
      joined.push_back(p);
    else
      flush();
  }
  flush();
  return blocks;
}

/// Draws one panel between margins that are set already.
std::string panel_script(const Figure& figure, const Panel& panel, const Look& look, bool legend) {
  std::string data, plots;
  int blocks = 0;
  const auto add = [&](const std::string& block, const std::string& style) {
    if (block.empty()) return;
    data += fmt::format("$d{} << EOD\n{}EOD\n", blocks, block);
    plots += fmt::format("{}$d{} using 1:2 {} notitle", plots.empty() ? "" : ", ", blocks++, style);
  };
  const auto draw = [&](const std::vector<Point>& points, const std::string& colour, double width) {
    const Blocks found = blocks_of(points);
    add(found.lines, fmt::format("with lines lt 1 lw {} lc rgb '{}'", width, colour));
    add(found.dots, fmt::format("with points pt 7 ps 0.6 lc rgb '{}'", colour));
  };
  for (size_t i = 0; i < panel.curves.size(); ++i) {
    const std::string& colour = look.stages[i % look.stages.size()];
    const Curve& curve = panel.curves[i];
    draw(curve.reports, curve.smooth.empty() ? colour : pale(colour), curve.smooth.empty() ? 1.6 : 1);
    if (!curve.smooth.empty()) draw(curve.smooth, colour, 2);
  }
  if (legend)
    for (size_t i = 0; i < figure.stages.size(); ++i)
      plots += fmt::format("{}NaN with lines lt 1 lw 4 lc rgb '{}' title {}", plots.empty() ? "" : ", ",
                           look.stages[i % look.stages.size()], quoted(figure.stages[i]));
  if (plots.empty()) plots = "NaN notitle";

  Axis x = linear_axis({0, figure.updates}, look.x_ticks);
  x.high = figure.updates;
  std::erase_if(x.ticks, [&](double tick) { return tick > x.high; });
  const Axis y = panel.y.empty() ? Axis{}
                 : panel.log     ? log_axis(panel.y, look.y_ticks)
                                 : linear_axis(panel.y, look.y_ticks);
  std::string script = data;
  script += fmt::format("set xrange [0:{:.12g}]\nset yrange [{:.12g}:{:.12g}]\n", x.high, y.low, y.high);
  script += panel.log ? "set logscale y\n" : "unset logscale y\n";
  script += fmt::format("set xtics {}\nset ytics {}\n", tics(x), tics(y));
  script += "unset arrow\n";
  for (const double start : figure.starts)
    if (start > 0)
      script += fmt::format(
          "set arrow from {0:.12g}, graph 0 to {0:.12g}, graph 1 nohead lt 1 lw 1 dt 3 lc rgb '{1}'\n", start,
          look.separator);
  if (panel.y.empty())
    script += fmt::format("set label 9 'no values' at graph 0.5, graph 0.5 center textcolor rgb '{}'\n",
                          look.muted);
  return script + "plot " + plots + "\nunset label 9\n";
}

std::string common_script(const Look& look) {
  return fmt::format(
      "set encoding utf8\n"
      "set samples 2\n"
      "set border 1 lt 1 lw 1 lc rgb '{2}'\n"
      "set grid xtics ytics back lt 1 lw 1 lc rgb '{1}', lt 1 lw 1 lc rgb '{1}'\n"
      "set tics scale 0 nomirror textcolor rgb '{0}'\n"
      "unset key\n",
      look.muted, look.line, look.separator);
}

std::string run_gnuplot(const std::string& where, const std::string& script) {
  // -d: without the settings of the user's ~/.gnuplot.
  return run_program(where, "gnuplot", {"-d", "-"}, script,
                     "install gnuplot (Debian: apt-get install gnuplot-nox)");
}

/// Colours of a picture on white.
Look paper_look() {
  Look look{"#222222", "#555555", "#e8e8e8", {}, "#aaaaaa"};
  for (const StageColour& colour : stage_colours()) look.stages.emplace_back(colour.light);
  return look;
}

// --- SVG in a page -----------------------------------------------------------------------------------------

void replace_all(std::string& text, const std::string& what, const std::string& by) {
  for (size_t at = 0; (at = text.find(what, at)) != std::string::npos; at += by.size())
    text.replace(at, what.size(), by);
}

constexpr int kInlineWidth = 480, kInlineHeight = 260;

/// Colours that stand for variables: gnuplot knows no variables.
std::string stand_in(size_t number) { return fmt::format("#0102{:02x}", number + 1); }

void put_variable(std::string& svg, size_t number, const std::string& variable) {
  // gnuplot writes both.
  for (const std::string& form :
       {fmt::format("rgb(1,2,{})", number + 1), fmt::format("rgb({:3}, {:3}, {:3})", 1, 2, number + 1)})
    replace_all(svg, form, "var(--" + variable + ")");
}

}  // namespace

const std::vector<StageColour>& stage_colours() {
  static const std::vector<StageColour> kColours{
      {"#0072b2", "#56a8e0"}, {"#d55e00", "#f0883e"}, {"#009e73", "#2fc49a"}, {"#cc79a7", "#e39cc3"},
      {"#e69f00", "#f0b93a"}, {"#56b4e9", "#8fd0f5"}, {"#5c5c5c", "#b5b5b5"}};
  return kColours;
}

std::string draw_curves(const std::string& where, const RunFolder& run, PictureFormat format,
                        int64_t smooth) {
  // Pixels of the PNG: the head of the picture, a row with its title, and its panel.
  constexpr int kWidth = 1600, kHead = 100, kRow = 450, kTitle = 30, kPanel = 335;
  const Figure figure = figure_of(where, run, smooth);
  const Look look = paper_look();
  const bool chain = figure.stages.size() > 1;
  const auto rows = static_cast<int>(figure.panels.size() + 1) / 2;
  const int height = kHead + rows * kRow;
  const auto screen = [&](int from_top) { return 1 - static_cast<double>(from_top) / height; };
  std::string script =
      format == PictureFormat::png
          ? fmt::format(
                "set terminal pngcairo noenhanced rounded size {},{} fontscale 1.15 linewidth 1.6 "
                "pointscale 1.5 "
                "font 'Sans,13' background rgb '#ffffff'\n",
                kWidth, height)
          : fmt::format(
                "set terminal svg noenhanced rounded size {},{} dynamic linewidth 1.1 font "
                "'Helvetica Neue,Helvetica,Arial,sans-serif,14' background rgb '#ffffff'\n",
                kWidth * 3 / 4, height * 3 / 4);
  script += common_script(look);
  script += "set multiplot\n";
  script += fmt::format("set label 1 {} at screen 0.055, screen {} left font ',17' textcolor rgb '{}'\n",
                        quoted(run.name), screen(35), look.ink);
  for (size_t i = 0; i < figure.panels.size(); ++i) {
    const double left = i % 2 == 0 ? 0.055 : 0.555;
    const int top = kHead + kTitle + static_cast<int>(i) / 2 * kRow;
    script += fmt::format("set lmargin at screen {}\nset rmargin at screen {}\n", left, left + 0.425);
    script += fmt::format("set tmargin at screen {}\nset bmargin at screen {}\n", screen(top),
                          screen(top + kPanel));
    script += fmt::format("set label 2 {} at graph 0, graph 1.07 left font ',14' textcolor rgb '{}'\n",
                          quoted(title_of(figure.panels[i])), look.ink);
    if (i + 2 >= figure.panels.size())
      script += fmt::format("set xlabel {} textcolor rgb '{}'\n",
                            quoted(chain ? "updates, one stage after the other" : "updates"), look.muted);
    if (i == 0 && chain)
      script += fmt::format(
          "set key at screen 0.985, screen {} right top horizontal maxcols {} reverse Left samplen 1.5 "
          "width 1 textcolor rgb '{}'\n",
          screen(15), std::min<size_t>(figure.stages.size(), 6), look.ink);
    script += panel_script(figure, figure.panels[i], look, i == 0 && chain);
    script += "unset key\nunset label 1\n";
  }
  return run_gnuplot(where, script + "unset multiplot\n");
}

std::vector<InlineCurve> draw_inline_curves(const std::string& where, const RunFolder& run) {
  const Figure figure = figure_of(where, run, 1);
  const size_t stages = stage_colours().size();
  Look look{stand_in(0), stand_in(0), stand_in(1), {}, stand_in(2), 5, 5};
  for (size_t i = 0; i < stages; ++i) look.stages.push_back(stand_in(3 + i));
  std::vector<InlineCurve> curves;
  for (const Panel& panel : figure.panels) {
    const std::string name = fmt::format("curve{}", curves.size());
    std::string svg = run_gnuplot(
        where,
        fmt::format("set terminal svg noenhanced rounded size {},{} dynamic font 'inherit,13' name '{}'\n"
                    "set lmargin at screen 0.11\nset rmargin at screen 0.975\n"
                    "set tmargin at screen 0.965\nset bmargin at screen 0.11\n",
                    kInlineWidth, kInlineHeight, name) +
            common_script(look) + panel_script(figure, panel, look, false));
    // What a page does not need: the head of a file, the names of vocabularies, and a title that is only
    // `name`.
    const size_t canvas = svg.find("<g id=\"gnuplot_canvas\"");
    require(canvas != std::string::npos, where,
            "expected an SVG from gnuplot, got {} bytes of something else", svg.size());
    svg = fmt::format("<svg viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\">\n", kInlineWidth,
                      kInlineHeight, title_of(panel)) +
          svg.substr(canvas);
    // The names of one picture must not meet those of the next.
    for (const char* id : {"gpDot", "gpPt", "textbox", "greybox", "gnuplot_canvas"})
      replace_all(svg, id, name + id);
    put_variable(svg, 0, "muted");
    put_variable(svg, 1, "line");
    put_variable(svg, 2, "separator");
    for (size_t i = 0; i < stages; ++i) put_variable(svg, 3 + i, fmt::format("stage-{}", i));
    curves.push_back({title_of(panel), std::move(svg)});
  }
  return curves;
}

}  // namespace halfstep
