// Curves of a training, drawn by gnuplot.
#pragma once

#include <string>
#include <vector>

#include "apps/run_log.h"

namespace halfstep {

enum class PictureFormat { png, svg };

/// All curves of a run in one picture: loss, learning rate, norm of the gradient and images per second
/// against the updates. Stages follow one after the other, each in its colour. `smooth` > 1: the mean over so
/// many reports, the reports themselves in the background. Throws Error in the name of the command `where` if
/// gnuplot is not installed or fails, and if there is no report.
std::string draw_curves(const std::string& where, const RunFolder& run, PictureFormat format, int64_t smooth);

/// One curve as an <svg> element for a page that gives the colours: CSS variables --muted, --line,
/// --separator, and
/// --stage-0 ... of stage_colours().
struct InlineCurve {
  std::string title;
  std::string svg;
};
std::vector<InlineCurve> draw_inline_curves(const std::string& where, const RunFolder& run);

/// Colours of the stages in turn, for a light and a dark background ("#0072b2"): those of Okabe and Ito,
/// which remain apart for the colour-blind.
struct StageColour {
  const char* light;
  const char* dark;
};
const std::vector<StageColour>& stage_colours();

}  // namespace halfstep
