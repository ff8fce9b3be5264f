#include "autograd/graph.h"

#include <algorithm>
#include <unordered_map>
#include <unordered_set>

#include "autograd/internal/node.h"
#include "tensor/error.h"
#include "tensor/files.h"
#include "tensor/program.h"

namespace halfstep {

Graph graph_of(const std::vector<Variable>& outputs, const VariableNames& names) {
  std::unordered_set<const Node*> seen;
  std::vector<const Node*> order;
  const auto visit = [&](const NodePtr& node) {
    if (node && seen.insert(node.get()).second) order.push_back(node.get());
  };
  for (const Variable& output : outputs) visit(Internals::node(output));
  for (size_t i = 0; i < order.size(); ++i)
    for (const NodePtr& input : order[i]->inputs) visit(input);
  std::sort(order.begin(), order.end(),
            [](const Node* a, const Node* b) { return a->sequence < b->sequence; });

  std::unordered_map<const Node*, size_t> index;
  Graph graph;
  for (const Node* node : order) {
    index[node] = graph.nodes.size();
    GraphNode& shown = graph.nodes.emplace_back();
    shown.operation = node->name;
    if (node->scope) shown.scope = *node->scope;
    shown.shape = node->shape;
    shown.dtype = node->dtype;
    {
      const Assign census(thread_state().census, &shown.saved);
      const GradientRule copy = node->rule;
    }
    shown.is_leaf = node->is_leaf;
    shown.freed = node->freed;
    for (size_t i = 0; i < node->inputs.size(); ++i)
      if (node->inputs[i])
        graph.edges.push_back({index.at(node->inputs[i].get()), index.at(node), static_cast<int>(i)});
  }
  for (const auto& [name, variable] : names)
    if (const auto found = index.find(Internals::node(variable).get()); found != index.end())
      graph.nodes[found->second].name = name;
  return graph;
}

Graph graph_of(const Variable& output, const VariableNames& names) {
  return graph_of(std::vector<Variable>{output}, names);
}

// --- DOT ---------------------------------------------------------------------------------------------------

namespace {

/// Between double quotes in DOT.
std::string escaped(const std::string& text) {
  std::string result;
  for (char c : text) {
    if (c == '\n') {
      result += "\\n";
      continue;
    }
    if (c == '"' || c == '\\') result += '\\';
    result += c;
  }
  return result;
}

std::string dot_node(size_t id, const GraphNode& node) {
  const std::string title = node.name.empty() ? node.operation
                            : node.is_leaf    ? node.name
                                              : fmt::format("{} = {}", node.name, node.operation);
  std::string kept;
  for (const Shape& shape : node.saved) kept += (kept.empty() ? "\\nkeeps " : ", ") + str(shape);
  return fmt::format("n{} [label=\"{}\\n{} {}{}{}\"{}];\n", id, escaped(title), str(node.shape),
                     name_of(node.dtype), kept, node.freed ? "\\nfreed" : "",
                     node.is_leaf ? ", shape=box, style=filled, fillcolor=lightblue" : "");
}

}  // namespace

std::string to_dot(const Graph& graph) {
  std::string dot = "digraph autograd {\n  rankdir=BT;\n  node [shape=ellipse, fontname=\"Helvetica\"];\n";
  std::map<std::string, std::vector<size_t>> scopes;
  for (size_t i = 0; i < graph.nodes.size(); ++i) scopes[graph.nodes[i].scope].push_back(i);
  size_t cluster = 0;
  for (const auto& [scope, members] : scopes) {
    if (!scope.empty())
      dot += fmt::format("  subgraph cluster{} {{\n  label=\"{}\";\n", cluster++, escaped(scope));
    for (size_t i : members) dot += "  " + dot_node(i, graph.nodes[i]);
    if (!scope.empty()) dot += "  }\n";
  }
  for (const GraphEdge& edge : graph.edges) dot += fmt::format("  n{} -> n{};\n", edge.input, edge.consumer);
  return dot + "}\n";
}

// --- pictures ----------------------------------------------------------------------------------------------

namespace {

/// What `dot -Tsvg` makes of the text.
std::string draw_svg(const std::string& dot) {
  return run_program("write_graph", "dot", {"-Tsvg"}, dot,
                     "install graphviz (Debian: apt-get install graphviz), or write a .dot file");
}

bool ends_with(const std::string& text, std::string_view end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

}  // namespace

void write_graph(const Variable& output, const std::string& path, const VariableNames& names) {
  const bool svg = ends_with(path, ".svg");
  require(svg || ends_with(path, ".dot") || ends_with(path, ".gv"), "write_graph",
          "expected a file name that ends in .dot, .gv or .svg, got '{}'", path);
  require(output.requires_grad(), "write_graph",
          "the output does not depend on anything that requires a gradient, so there is no graph");
  const std::string dot = to_dot(graph_of(output, names));
  write_file(path, svg ? draw_svg(dot) : dot);
}

}  // namespace halfstep
