// The graph behind a Variable as plain data, as text for Graphviz, and as a picture, for study:
//
//   write_graph(loss, "loss.svg", {{"w", w}, {"b", b}});
//
// It shows what requires a gradient: the operations that backward() would walk, and the leaves. Constants and
// what was freed are not in it.
#pragma once

#include <cstddef>
#include <map>
#include <string>
#include <vector>

#include "autograd/variable.h"

namespace halfstep {

/// Names to show for leaves, or for results.
using VariableNames = std::map<std::string, Variable>;

/// One operation or leaf of a graph, as it is drawn.
struct GraphNode {
  std::string operation;  ///< as given to record(); "leaf" for leaves
  std::string name;       ///< the given name; empty without one
  std::string scope;      ///< the NameScopes it was made in: "encoder/block1"
  Shape shape;            ///< of the value
  DType dtype = DType::f32;
  std::vector<Shape> saved;  ///< of what its rule keeps in Saved and SavedTensor
  bool is_leaf = false;
  bool freed = false;  ///< an earlier backward released what is behind it
};

/// nodes[input] is input number `position` of the operation nodes[consumer].
struct GraphEdge {
  size_t input = 0, consumer = 0;
  int position = 0;
};

/// Nodes in order of creation, so inputs come before their consumers; edges by consumer and position. The
/// same program gives the same graph.
struct Graph {
  std::vector<GraphNode> nodes;
  std::vector<GraphEdge> edges;
};

/// The graph behind `outputs`; those that require no gradient add nothing to it.
Graph graph_of(const std::vector<Variable>& outputs, const VariableNames& names = {});
Graph graph_of(const Variable& output, const VariableNames& names = {});

/// In the DOT language: arrows from inputs to consumers, leaves filled, nodes n0, n1, ... numbered as in
/// `graph`, labels with operation or name, shape and dtype of the value, and shapes of what the rule keeps;
/// one cluster per scope.
std::string to_dot(const Graph& graph);

/// Writes the graph behind `output` to a file: DOT for names that end in ".dot" or ".gv", a picture for
/// ".svg". The picture is drawn by Graphviz's program `dot`, which must be installed. Throws Error for other
/// endings, if the file cannot be written, and if `dot` is missing or fails.
void write_graph(const Variable& output, const std::string& path, const VariableNames& names = {});

}  // namespace halfstep
