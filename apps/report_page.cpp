#include "apps/report_page.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "apps/options.h"

namespace halfstep {

namespace {

constexpr const char* kStyle = R"css(
:root {
  color-scheme: light dark;
  --page: #f7f7f5; --card: #ffffff; --ink: #1f2124; --muted: #63676d; --line: #e6e6e2; --separator: #b0b0aa;
  --done: #1a7f4b; --running: #0a66b0; --stopped: #b3541e; --waiting: #63676d;
  LIGHT
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #141618; --card: #1c1f22; --ink: #e4e5e6; --muted: #9ba1a8; --line: #2d3136; --separator: #565c63;
    --done: #55c08a; --running: #62b0f0; --stopped: #e8935a; --waiting: #9ba1a8;
    DARK
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink); overflow-wrap: anywhere;
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Liberation Sans", Arial, sans-serif;
}
main { max-width: 1080px; margin: 0 auto; padding: 40px 24px 24px; }
h1 { margin: 0; font-size: 1.9rem; line-height: 1.2; font-weight: 650; letter-spacing: -0.02em; }
h2 { margin: 44px 0 14px; font-size: 1.15rem; font-weight: 650; letter-spacing: -0.01em; }
h3 { margin: 0; font-size: 0.95rem; font-weight: 600; }
p { margin: 0; }
code, pre { font: 0.86em/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, "Liberation Mono", monospace; }
.muted, figcaption, footer { color: var(--muted); }
.kind { color: var(--muted); margin-top: 4px; }
.title { display: flex; flex-wrap: wrap; align-items: center; gap: 8px 14px; }
.pill {
  display: inline-block; padding: 0 9px; border-radius: 99px; font-size: 0.8rem; line-height: 1.6; font-weight: 550;
  border: 1px solid currentColor; white-space: nowrap;
}
.done { color: var(--done); } .running { color: var(--running); }
.stopped { color: var(--stopped); } .waiting { color: var(--waiting); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
.facts { display: flex; flex-wrap: wrap; gap: 14px 30px; margin: 22px 0 0; }
.facts div { min-width: 0; }
.facts dt { color: var(--muted); font-size: 0.8rem; }
.facts dd { margin: 0; font-weight: 550; font-variant-numeric: tabular-nums; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 500; color: var(--muted); font-size: 0.82rem; }
th, td { padding: 8px 12px; border-bottom: 1px solid var(--line); vertical-align: baseline; }
tr:last-child > td, tr:last-child > th[scope=row] { border-bottom: 0; }
.stages .number { text-align: right; white-space: nowrap; }
.stages code { white-space: nowrap; }
.dot { display: inline-block; width: 9px; height: 9px; border-radius: 3px; margin-right: 8px; }
.stages th[scope=row] { color: var(--ink); font-size: 1em; font-weight: 600; white-space: nowrap; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 20px; margin-bottom: 12px; font-size: 0.9rem; }
.curves + p { margin-top: 10px; font-size: 0.82rem; }
.curves { display: grid; grid-template-columns: 1fr 1fr; gap: 16px; }
figure { margin: 0; min-width: 0; }
.curves figure { padding: 14px 14px 8px; }
.curves svg { display: block; width: 100%; height: auto; margin-top: 8px; }
.samples { display: flex; gap: 24px; padding: 18px; margin-bottom: 16px; align-items: flex-start; }
.samples h3 { margin-bottom: 10px; }
.latest { flex: 0 1 300px; }
.latest img { max-width: 100%; width: 300px; }
.history { flex: 1 1 0; min-width: 0; }
.strip { display: flex; flex-wrap: wrap; gap: 14px 12px; }
.strip figure { flex: 0 0 112px; }
.strip img { width: 112px; }
.wide { padding: 18px; margin-bottom: 16px; }
.wide img { max-width: 100%; }
img { display: block; height: auto; border-radius: 4px; background: #fff; }
figcaption { font-size: 0.82rem; margin-top: 6px; }
.missing { border: 1px dashed var(--separator); border-radius: 4px; padding: 12px; font-size: 0.82rem; }
.configuration { display: grid; grid-template-columns: 1fr 1fr; gap: 16px; align-items: start; }
.configuration h3 { padding: 12px 14px 4px; }
.configuration th, .configuration td { padding: 4px 14px; font-size: 0.88rem; }
.configuration td { text-align: right; }
.lineage { list-style: none; margin: 0; padding: 18px; }
.lineage li { position: relative; padding: 0 0 16px 26px; }
.lineage li:last-child { padding-bottom: 0; }
.lineage li::before {
  content: ""; position: absolute; left: 3px; top: 7px; width: 8px; height: 8px; border-radius: 50%;
  border: 2px solid var(--separator); background: var(--card); z-index: 1;
}
.lineage li:not(:last-child)::after {
  content: ""; position: absolute; left: 8px; top: 12px; bottom: -8px; border-left: 2px solid var(--line);
}
.lineage .detail { color: var(--muted); font-size: 0.88rem; }
.command { padding: 12px 14px; margin-bottom: 10px; }
.command pre { margin: 0; white-space: pre-wrap; }
.command p { color: var(--muted); font-size: 0.82rem; margin-top: 4px; }
footer { margin-top: 40px; padding-top: 14px; border-top: 1px solid var(--line); font-size: 0.82rem; }
@media (max-width: 760px) {
  main { padding: 24px 14px 16px; }
  h1 { font-size: 1.5rem; }
  .curves, .configuration { grid-template-columns: minmax(0, 1fr); }
  .facts { gap: 10px 28px; }
  .samples { flex-direction: column; gap: 14px; }
  .history { width: 100%; flex: none; }
  .latest { flex: none; width: 100%; }
  .strip { flex-wrap: nowrap; overflow-x: auto; padding-bottom: 8px; }
  /* Each stage becomes a card of its own. */
  .stages thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  .stages table, .stages tbody, .stages td, .stages th { display: block; }
  .stages tr {
    display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 6px 12px; padding: 12px 14px;
    border-bottom: 1px solid var(--line);
  }
  .stages tr:last-child { border-bottom: 0; }
  .stages td, .stages th[scope=row] { border: 0; padding: 0; }
  .stages th[scope=row] { grid-column: span 2; }
  .stages td[data-label=Status] { text-align: right; }
  .stages td:not([data-label=Status])::before {
    content: attr(data-label); display: block; color: var(--muted); font-size: 0.78rem; line-height: 1.3;
  }
  .stages .number { text-align: left; white-space: normal; }
}
@media print { body { background: #fff; } .card, figure { break-inside: avoid; } }
)css";

constexpr size_t kHashShown = 10;  ///< of 64 characters; the whole is the title of the element

std::string escaped(const std::string& text) {
  std::string result;
  for (const char c : text) {
    switch (c) {
      case '&':
        result += "&amp;";
        break;
      case '<':
        result += "&lt;";
        break;
      case '>':
        result += "&gt;";
        break;
      case '"':
        result += "&quot;";
        break;
      case '\'':
        result += "&#39;";
        break;
      default:
        result += c;
    }
  }
  return result;
}

std::string base64(const std::string& bytes) {
  constexpr std::string_view kLetters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  text.reserve((bytes.size() + 2) / 3 * 4);
  for (size_t i = 0; i < bytes.size(); i += 3) {
    uint32_t three = 0;
    for (size_t k = 0; k < 3; ++k)
      three = three << 8 | (i + k < bytes.size() ? static_cast<uint8_t>(bytes[i + k]) : 0);
    for (size_t k = 0; k < 4; ++k) text += i + k <= bytes.size() ? kLetters[three >> (18 - 6 * k) & 63] : '=';
  }
  return text;
}

constexpr const char* kUnknown = "–";

std::string number(double value, int digits) {
  return std::isfinite(value) ? fmt::format("{:.{}g}", value, digits) : kUnknown;
}

std::string time_text(double seconds) { return seconds > 0 ? format_seconds(seconds) : kUnknown; }

/// "2026-11-25T15:00:00Z" as people read it.
std::string moment(const std::string& time) {
  return time.size() == 20 && time[10] == 'T' && time[19] == 'Z'
             ? time.substr(0, 10) + " " + time.substr(11, 5) + " UTC"
             : time;
}

std::string threads_text(const std::string& count) { return count + (count == "1" ? " thread" : " threads"); }

std::string pill(const std::string& status) {
  const bool known = status == "done" || status == "running" || status == "stopped" || status == "waiting";
  return fmt::format("<span class=\"pill {}\">{}</span>", known ? status : "waiting", escaped(status));
}

std::string hash(const std::string& sha256) {
  return fmt::format("<code title=\"{}\">{}</code>", escaped(sha256), escaped(sha256.substr(0, kHashShown)));
}

std::string image(const ReportPicture& picture, const std::string& alt) {
  if (picture.png.empty()) return fmt::format("<p class=\"missing\">{}: not there</p>", escaped(alt));
  return fmt::format("<img alt=\"{}\" width=\"{}\" height=\"{}\" src=\"data:image/png;base64,{}\">",
                     escaped(alt), picture.width, picture.height, base64(picture.png));
}

std::string figcaption(const ReportPicture& picture) {
  std::string text = escaped(picture.caption);
  for (const std::string& detail : picture.details) text += "<br>" + escaped(detail);
  return "<figcaption>" + text + "</figcaption>";
}

std::string section(const std::string& heading, const std::string& content) {
  return content.empty() ? "" : fmt::format("<section>\n<h2>{}</h2>\n{}</section>\n", heading, content);
}

/// Colour of a stage in the curves; nothing if it has none.
std::string dot(const Report& report, const std::string& stage) {
  const auto found = std::find(report.curve_stages.begin(), report.curve_stages.end(), stage);
  if (found == report.curve_stages.end() || report.curve_stages.size() < 2) return {};
  return fmt::format("<span class=\"dot\" style=\"background:var(--stage-{})\"></span>",
                     static_cast<size_t>(found - report.curve_stages.begin()) % stage_colours().size());
}

std::string steps_text(const ReportStage& stage) {
  if (stage.num_steps == 0) return "any";
  return stage.teacher_steps > 0 ? fmt::format("{} → {}", stage.teacher_steps, stage.num_steps)
                                 : std::to_string(stage.num_steps);
}

std::string updates_text(const ReportStage& stage) {
  return stage.max_steps > 0 ? fmt::format("{} of {}", stage.step, stage.max_steps)
                             : std::to_string(stage.step);
}

bool is_distillation(const Report& report) {
  return std::any_of(report.stages.begin(), report.stages.end(),
                     [](const auto& s) { return s.num_steps > 0; });
}

std::string header(const Report& report) {
  std::string kind = "Training";
  if (is_distillation(report)) {
    std::vector<int64_t> steps;
    for (const ReportStage& stage : report.stages) {
      if (stage.num_steps == 0) continue;
      if (steps.empty() && stage.teacher_steps > 0) steps.push_back(stage.teacher_steps);
      steps.push_back(stage.num_steps);
    }
    kind = fmt::format("Progressive distillation, {}", fmt::join(steps, " → ")) + " sampling steps";
  }
  double seconds = 0;
  int64_t updates = 0;
  for (const ReportStage& stage : report.stages) {
    updates += stage.step;
    if (std::isfinite(stage.seconds)) seconds += stage.seconds;
  }
  std::string facts;
  const auto fact = [&](const char* name, const std::string& value) {
    if (!value.empty()) facts += fmt::format("<div><dt>{}</dt><dd>{}</dd></div>\n", name, escaped(value));
  };
  fact("Data", report.data);
  fact("Updates", std::to_string(updates));
  fact("Training time", seconds > 0 ? format_seconds(seconds) : "");
  if (!report.commands.empty()) {
    const Json& last = report.commands.back();
    const std::string threads = text_at(last, "threads");
    fact("Device", text_at(last, "device") + (threads.empty() ? "" : ", " + threads_text(threads)));
    fact("Started", moment(text_at(report.commands.front(), "started")));
    fact("Program", text_at(last, "program"));
  }
  return fmt::format(
      "<header>\n<div class=\"title\"><h1>{}</h1>{}</div>\n<p class=\"kind\">{}</p>\n<dl "
      "class=\"facts\">\n{}</dl>\n"
      "</header>\n",
      escaped(report.name), pill(report.status), escaped(kind), facts);
}

std::string stages_table(const Report& report) {
  struct Column {
    const char* name;
    bool shown, number;
    std::string (*cell)(const ReportStage&);
  };
  const auto any = [&](double ReportStage::*value) {
    return std::any_of(report.stages.begin(), report.stages.end(),
                       [&](const ReportStage& s) { return std::isfinite(s.*value); });
  };
  const bool hashes = std::any_of(report.stages.begin(), report.stages.end(),
                                  [](const ReportStage& s) { return !s.model_sha256.empty(); });
  const Column columns[] = {
      {"Status", true, false, [](const ReportStage& s) { return pill(s.status); }},
      {"Sampling steps", is_distillation(report), true, steps_text},
      {"Updates", true, true, updates_text},
      {"Loss", true, true, [](const ReportStage& s) { return number(s.loss, 4); }},
      {"Time", true, true, [](const ReportStage& s) { return time_text(s.seconds); }},
      {"Distance to data", any(&ReportStage::distance_to_data), true,
       [](const ReportStage& s) { return distance_text(s.distance_to_data); }},
      {"Distance to teacher", any(&ReportStage::distance_to_teacher), true,
       [](const ReportStage& s) { return distance_text(s.distance_to_teacher); }},
      {"Model", hashes, false,
       [](const ReportStage& s) { return s.model_sha256.empty() ? kUnknown : hash(s.model_sha256); }},
  };
  std::string head = "<th scope=\"col\">Stage</th>", body;
  for (const Column& column : columns)
    if (column.shown)
      head +=
          fmt::format("<th scope=\"col\"{}>{}</th>", column.number ? " class=\"number\"" : "", column.name);
  for (const ReportStage& stage : report.stages) {
    body += fmt::format("<tr><th scope=\"row\">{}{}</th>", dot(report, stage.name), escaped(stage.name));
    for (const Column& column : columns)
      if (column.shown)
        body += fmt::format("<td data-label=\"{}\"{}>{}</td>", column.name,
                            column.number ? " class=\"number\"" : "", column.cell(stage));
    body += "</tr>\n";
  }
  return fmt::format(
      "<div class=\"card stages\"><table>\n<thead><tr>{}</tr></thead>\n<tbody>\n{}</tbody>\n</table></div>\n",
      head, body);
}

std::string curves_grid(const Report& report) {
  if (report.curves.empty()) return "<p class=\"muted\">No report yet.</p>\n";
  std::string content;
  if (report.curve_stages.size() > 1) {
    for (const std::string& stage : report.curve_stages)
      content += fmt::format("<span>{}{}</span>\n", dot(report, stage), escaped(stage));
    content = fmt::format("<div class=\"legend\">\n{}</div>\n", content);
  }
  std::string figures;
  for (const InlineCurve& curve : report.curves)
    figures +=
        fmt::format("<figure class=\"card\"><h3>{}</h3>\n{}</figure>\n", escaped(curve.title), curve.svg);
  return fmt::format("{}<div class=\"curves\">\n{}</div>\n<p class=\"muted\">Against updates{}.</p>\n",
                     content, figures, report.curve_stages.size() > 1 ? ", one stage after the other" : "");
}

std::string samples(const Report& report) {
  std::string content;
  for (const ReportPicture& picture : report.pictures)
    content += fmt::format("<figure class=\"card wide\">{}{}</figure>\n", image(picture, picture.caption),
                           figcaption(picture));
  for (const ReportStage& stage : report.stages) {
    if (stage.pictures.empty()) continue;
    const auto alt = [&](const ReportPicture& picture) { return stage.name + ", " + picture.caption; };
    const ReportPicture& latest = stage.pictures.back();
    content += fmt::format(
        "<article class=\"card samples\">\n<figure "
        "class=\"latest\"><h3>{}{}</h3>{}{}</figure>\n",
        dot(report, stage.name), escaped(stage.name), image(latest, alt(latest)), figcaption(latest));
    if (stage.pictures.size() > 1) {
      content +=
          "<div class=\"history\"><h3 class=\"muted\">Before</h3><div class=\"strip\" tabindex=\"0\">\n";
      for (size_t i = 0; i + 1 < stage.pictures.size(); ++i) {
        const ReportPicture& picture = stage.pictures[i];
        content += fmt::format("<figure>{}{}</figure>\n", image(picture, alt(picture)), figcaption(picture));
      }
      content += "</div></div>\n";
    }
    content += "</article>\n";
  }
  return content;
}

std::string settings_table(const char* heading, const Json& settings) {
  if (!settings.is_object() || settings.empty()) return {};
  std::string rows;
  for (const auto& [key, value] : settings.items()) {
    std::string text = value.is_string() ? value.get<std::string>() : value.dump();
    if (value.is_array() && !value.empty()) {
      text.clear();
      for (const Json& element : value) text += (text.empty() ? "" : ", ") + element.dump();
    }
    rows += fmt::format("<tr><th scope=\"row\">{}</th><td>{}</td></tr>\n", escaped(key), escaped(text));
  }
  return fmt::format("<div class=\"card\"><h3>{}</h3><table><tbody>\n{}</tbody></table></div>\n", heading,
                     rows);
}

std::string configuration(const Report& report) {
  const std::string tables = settings_table("Model", value_at(report.config, "model")) +
                             settings_table("Training", value_at(report.config, "train")) +
                             settings_table("Distillation", value_at(report.config, "distill"));
  return tables.empty() ? "" : fmt::format("<div class=\"configuration\">\n{}</div>\n", tables);
}

std::string lineage(const Report& report) {
  std::string nodes, above;
  const auto node = [&](const std::string& name, const std::vector<std::string>& details) {
    nodes += fmt::format("<li><strong>{}</strong><div class=\"detail\">{}</div></li>\n", escaped(name),
                         fmt::join(details, " · "));
  };
  if (report.teacher.is_object()) {
    above = text_at(report.teacher, "model_sha256");
    std::vector<std::string> details{escaped(text_at(report.teacher, "checkpoint"))};
    if (const std::string steps = text_at(report.teacher, "num_steps"); !steps.empty())
      details.push_back(escaped(steps) + " sampling steps");
    if (!above.empty()) details.push_back("model " + hash(above));
    node("Teacher", details);
  }
  for (const ReportStage& stage : report.stages) {
    std::vector<std::string> details;
    if (stage.num_steps > 0) details.push_back(steps_text(stage) + " sampling steps");
    details.push_back(updates_text(stage) + " updates");
    if (!stage.checkpoint.empty()) details.push_back(escaped(stage.checkpoint));
    if (!stage.model_sha256.empty()) details.push_back("model " + hash(stage.model_sha256));
    if (!stage.parent_sha256.empty())
      details.push_back("from " + hash(stage.parent_sha256) +
                        (above.empty() ? ""
                         : above == stage.parent_sha256
                             ? ", the model above ✓"
                             : ", <strong class=\"stopped\">not the model above</strong>"));
    node(stage.name, details);
    above = stage.model_sha256;
  }
  std::string commands;
  for (const Json& command : report.commands) {
    std::vector<std::string> details;
    for (const std::string& detail :
         {moment(text_at(command, "started")), text_at(command, "program"), text_at(command, "device")})
      if (!detail.empty()) details.push_back(escaped(detail));
    if (const std::string threads = text_at(command, "threads"); !threads.empty())
      details.push_back(escaped(threads_text(threads)));
    commands += fmt::format("<div class=\"card command\"><pre><code>{}</code></pre><p>{}</p></div>\n",
                            escaped(text_at(command, "line")), fmt::join(details, " · "));
  }
  return section("Lineage", fmt::format("<ol class=\"card lineage\">\n{}</ol>\n", nodes)) +
         section("Commands", commands);
}

/// Variables for the colours of stages.
std::string stage_variables(const char* StageColour::*which) {
  std::string text;
  for (size_t i = 0; i < stage_colours().size(); ++i)
    text += fmt::format("--stage-{}: {}; ", i, stage_colours()[i].*which);
  return text;
}

std::string style() {
  std::string css = kStyle;
  const auto put = [&](const std::string& mark, const std::string& text) {
    css.replace(css.find(mark), mark.size(), text);
  };
  put("LIGHT", stage_variables(&StageColour::light));
  put("DARK", stage_variables(&StageColour::dark));
  return css;
}

}  // namespace

const Json& value_at(const Json& json, const char* key) {
  static const Json kNothing;
  if (!json.is_object()) return kNothing;
  const auto found = json.find(key);
  return found == json.end() ? kNothing : *found;
}

std::string text_at(const Json& json, const char* key) {
  const Json& value = value_at(json, key);
  return value.is_null() ? "" : value.is_string() ? value.get<std::string>() : value.dump();
}

std::string distance_text(double distance) {
  return distance >= 1 ? fmt::format("{:.2f}", distance) : number(distance, 3);
}

std::string report_page(const Report& report, const std::string& footer) {
  std::string page = fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
      "<link rel=\"icon\" href=\"data:,\">\n<title>{} – "
      "halfstep</title>\n<style>{}</style>\n</head>\n<body>\n<main>\n",
      escaped(report.name), style());
  page += header(report);
  page += section("Stages", stages_table(report));
  page += section("Curves", curves_grid(report));
  page += section("Samples", samples(report));
  page += section("Configuration", configuration(report));
  page += lineage(report);
  page += fmt::format("<footer>{}</footer>\n</main>\n</body>\n</html>\n", escaped(footer));
  return page;
}

}  // namespace halfstep
