#include "bench/profile.h"

#include <fmt/format.h>

#include "tensor/backend_entries.h"

#include <algorithm>
#include <chrono>
#include <map>

namespace halfstep::bench {
namespace {

// --- the work of a call ------------------------------------------------------------------------------------

double bytes_of(const Array& a) {
  if (a.absent()) return 0;
  double elements = 1;
  for (int axis = 0; axis < a.shape.rank(); ++axis)
    if (a.strides[axis] != 0) elements *= static_cast<double>(a.shape[axis]);
  return elements * static_cast<double>(size_of(a.dtype));
}
template <class... Arrays>
double bytes_of(const Array& first, const Arrays&... rest) {
  return (bytes_of(first) + ... + bytes_of(rest));
}
double numel_of(const Array& a) { return static_cast<double>(numel(a.shape)); }

Work work_of(const GemmArgs& g) {
  return {2 * numel_of(g.c) * static_cast<double>(g.a.shape.back()), bytes_of(g.a, g.b, g.c, g.bias)};
}
Work work_of(const Conv2dArgs& c) {
  const double per_output = numel_of(c.kernel) / static_cast<double>(c.kernel.shape[3]);
  return {2 * numel_of(c.y) * per_output, bytes_of(c.x, c.kernel, c.bias, c.y)};
}
/// Of each of the products q k^T and p v.
double attention_product(const AttentionArgs& a) {
  return 2 * numel_of(a.q) * static_cast<double>(a.k.shape[1]);
}
Work work_of(const AttentionArgs& a) {
  return {2 * attention_product(a), bytes_of(a.q, a.k, a.v, a.out, a.log_sum_exp)};
}
Work work_of(const AttentionBackwardArgs& a) {
  return {5 * attention_product(a.forward), work_of(a.forward).bytes + bytes_of(a.d_out, a.dq, a.dk, a.dv)};
}
Work work_of(const GroupNormArgs& g) { return {0, bytes_of(g.x, g.gain, g.bias, g.y, g.mean, g.rstd)}; }
Work work_of(const GroupNormBackwardArgs& g) {
  return {0, work_of(g.forward).bytes + bytes_of(g.dy, g.dx, g.dgain, g.dbias)};
}
Work work_of(const RandomArgs& r) { return {0, bytes_of(r.out)}; }
Work work_of(const DropoutArgs& d) { return {0, bytes_of(d.x, d.y)}; }
Work work_of(const OptimizerControlArgs&) { return {}; }
Work work_of(const Array& a) { return {0, bytes_of(a)}; }
// What an update changes is read and written.
Work work_of(const AdamParameter& a) {
  return {0, 2 * bytes_of(a.param, a.m, a.v, a.v_max) + bytes_of(a.grad)};
}
Work work_of(const SgdParameter& s) { return {0, 2 * bytes_of(s.param, s.buffer) + bytes_of(s.grad)}; }
Work work_of(const AveragedArray& a) { return {0, 2 * bytes_of(a.average) + bytes_of(a.source)}; }
Work work_of(const MaxPool2dArgs& m) { return {0, bytes_of(m.x, m.y, m.index)}; }
template <class Args>
requires requires(Args a) { a.list; }
Work work_of(const Args& args) {
  Work all;
  for (const auto& item : args.list) all += work_of(item);
  return all;
}
template <class Other>  // numbers and names of functions
Work work_of(const Other&) {
  return {};
}

// --- its shapes --------------------------------------------------------------------------------------------

std::string shapes_of(const GemmArgs& g) { return str(g.a.shape) + " x " + str(g.b.shape); }
std::string shapes_of(const Conv2dArgs& c) { return str(c.x.shape) + " " + str(c.kernel.shape); }
std::string shapes_of(const AttentionArgs& a) { return str(a.q.shape) + " " + str(a.k.shape); }
std::string shapes_of(const AttentionBackwardArgs& a) { return shapes_of(a.forward); }
std::string shapes_of(const GroupNormArgs& g) { return str(g.x.shape); }
std::string shapes_of(const GroupNormBackwardArgs& g) { return shapes_of(g.forward); }
std::string shapes_of(const RandomArgs& r) { return str(r.out.shape); }
std::string shapes_of(const DropoutArgs& d) { return str(d.x.shape); }
std::string shapes_of(const MaxPool2dArgs& m) { return str(m.x.shape); }
std::string shapes_of(const Array& a) { return str(a.shape); }
template <class Args>
requires requires(Args a) { a.list; }
std::string shapes_of(const Args& args) { return fmt::format("{} arrays", args.list.size()); }
template <class Other>
std::string shapes_of(const Other&) {
  return {};
}
template <class... Args>
std::string all_shapes(const Args&... args) {
  std::string all;
  const auto add = [&all](const std::string& shapes) {
    all += (all.empty() || shapes.empty() ? "" : " ") + shapes;
  };
  (add(shapes_of(args)), ...);
  return all;
}

// --- the table ---------------------------------------------------------------------------------------------

const Backend* watched = nullptr;
bool shapes_apart = false;

/// By entry and shapes.
std::map<std::pair<std::string_view, std::string>, ProfileRow> rows;

template <auto Member>
struct Entry;
template <class... Args, void (*Backend::*Member)(Args...)>
struct Entry<Member> {
  static inline std::string_view name;

  static void call(Args... args) {
    const auto start = std::chrono::steady_clock::now();
    (watched->*Member)(args...);
    if (!watched->synchronous) watched->synchronize();
    const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
    const std::string shapes = shapes_apart ? all_shapes(args...) : "";
    ProfileRow& row = rows[{name, shapes}];
    row.entry = name;
    row.shapes = shapes;
    row.seconds += time.count();
    ++row.calls;
    ((row.work += work_of(args)), ...);
  }

  static void watch(Backend& table, std::string_view entry) {
    table.*Member = call;
    name = entry;
  }
};

Backend make_table() {
  Backend table = *watched;
  for_each_entry([&]<auto Member>(std::string_view name) { Entry<Member>::watch(table, name); });
  return table;
}

}  // namespace

const Backend& profiled(const Backend& inner, bool by_shapes) {
  watched = &inner;
  shapes_apart = by_shapes;
  static Backend table = make_table();
  table.name = inner.name;
  return table;
}

std::vector<ProfileRow> profile() {
  std::vector<ProfileRow> called;
  for (const auto& [key, row] : rows) called.push_back(row);
  std::sort(called.begin(), called.end(),
            [](const ProfileRow& a, const ProfileRow& b) { return a.seconds > b.seconds; });
  return called;
}

void reset_profile() { rows.clear(); }

}  // namespace halfstep::bench
