// Graphs as data, DOT text and pictures.
#include "autograd/graph.h"

#include <doctest/doctest.h>

#include <cstdlib>

#include "autograd/anomaly.h"
#include "autograd/ops.h"
#include "tensor/files.h"
#include "tests/error_of.h"
#include "tests/leaf.h"
#include "tests/temporary_folder.h"

using namespace halfstep;
using namespace halfstep::test;

TEST_CASE("nodes come in order of creation, edges by consumer and position") {
  const Variable w = leaf({1, 2}, {2}), x = leaf({3, 4}, {2});
  const Variable y = x * w;
  const Variable loss = sum(y * y + constant({1, 1}, {2}));
  const Graph graph = graph_of(loss, {{"w", w}, {"y", y}, {"unused", leaf({1}, {})}});
  std::vector<std::string> operations, names;
  for (const GraphNode& node : graph.nodes) {
    operations.push_back(node.operation);
    names.push_back(node.name);
  }
  CHECK(operations == std::vector<std::string>{"leaf", "leaf", "multiply", "multiply", "add", "sum"});
  CHECK(names == std::vector<std::string>{"w", "", "y", "", "", ""});
  CHECK(graph.nodes[0].is_leaf);
  CHECK_FALSE(graph.nodes[2].is_leaf);
  CHECK(graph.nodes[4].shape == Shape{2});
  CHECK(graph.nodes[5].shape == Shape{});
  CHECK(graph.nodes[5].dtype == DType::f64);
  CHECK(graph.nodes[3].saved == std::vector<Shape>{{2}, {2}});
  CHECK(graph.nodes[4].saved.empty());  // adding needs no value
  std::vector<std::vector<size_t>> edges;
  for (const GraphEdge& e : graph.edges)
    edges.push_back({e.input, e.consumer, static_cast<size_t>(e.position)});
  CHECK(edges ==
        std::vector<std::vector<size_t>>{{1, 2, 0}, {0, 2, 1}, {2, 3, 0}, {2, 3, 1}, {3, 4, 0}, {4, 5, 0}});
  // Several outputs share what they share; one without a graph adds nothing.
  CHECK(graph_of({loss, y, constant({1}, {})}).nodes.size() == 6);
  CHECK(graph_of({loss, exp(y)}).nodes.size() == 7);
  CHECK(graph_of(x.detach()).nodes.empty());
  CHECK(graph_of(Variable()).nodes.empty());
}

TEST_CASE("the DOT text of a small graph") {
  const Variable w = leaf({1, 2}, {2}), x(Tensor::ones({2, 2}), true);
  Variable h;
  {
    NameScope encoder("encoder");
    NameScope block("block \"1\"");
    h = to(x, DType::f64) * w;
  }
  const Variable loss = sum(h);
  const std::string expected = R"DOT(digraph autograd {
  rankdir=BT;
  node [shape=ellipse, fontname="Helvetica"];
  n0 [label="w\\\"0\"\n(2,) f64", shape=box, style=filled, fillcolor=lightblue];
  n1 [label="leaf\n(2, 2) f32", shape=box, style=filled, fillcolor=lightblue];
  n4 [label="sum\n() f64"];
  subgraph cluster0 {
  label="encoder/block \"1\"";
  n2 [label="to\n(2, 2) f64"];
  n3 [label="h = multiply\n(2, 2) f64\nkeeps (2, 2), (2,)"];
  }
  n1 -> n2;
  n2 -> n3;
  n0 -> n3;
  n3 -> n4;
}
)DOT";
  const VariableNames names{{"w\\\"0\"", w}, {"h", h}};
  CHECK(to_dot(graph_of(loss, names)) == expected);
  CHECK(to_dot(graph_of(loss, names)) == expected);  // the same each time
  loss.backward();
  CHECK(to_dot(graph_of(loss)) ==
        "digraph autograd {\n  rankdir=BT;\n  node [shape=ellipse, fontname=\"Helvetica\"];\n"
        "  n0 [label=\"sum\\n() f64\\nfreed\"];\n}\n");
}

TEST_CASE("large graphs are walked without recursion") {
  const Variable x = leaf({1}, {});
  Variable y = x;
  for (int i = 0; i < 20000; ++i) y = y * x;
  const Graph graph = graph_of(y);
  CHECK(graph.nodes.size() == 20001);
  CHECK(graph.nodes[0].is_leaf);
  for (const GraphNode& node : {graph.nodes[0], graph.nodes[1]}) CHECK_FALSE(node.freed);
  CHECK(graph.edges.size() == 40000);
  CHECK(graph.edges[2].input == 1);
  CHECK(to_dot(graph).find("  n19999 -> n20000;\n") != std::string::npos);
}

TEST_CASE("write_graph writes what the ending says") {
  const TemporaryFolder folder;
  const Variable x = leaf({1, 2}, {2});
  const Variable loss = sum(x * x);
  write_graph(loss, folder / "loss.dot", {{"x", x}});
  CHECK(read_file(folder / "loss.dot") == to_dot(graph_of(loss, {{"x", x}})));
  write_graph(loss, folder / "loss.gv");
  CHECK(read_file(folder / "loss.gv") == to_dot(graph_of(loss)));
  CHECK(error_of([&] { write_graph(loss, folder / "loss.png"); }).find("ends in .dot, .gv or .svg, got") !=
        std::string::npos);
  CHECK(error_of([&] { write_graph(x.detach(), folder / "none.dot"); }).find("there is no graph") !=
        std::string::npos);
  CHECK(error_of([&] { write_graph(loss, folder / "missing/loss.dot"); }).find("create the folder first") !=
        std::string::npos);
}

TEST_CASE("a picture is drawn by dot, and its absence is explained") {
  const TemporaryFolder folder;
  const Variable x = leaf({1, 2}, {2});
  const Variable loss = sum(x * x);
  const char* variable = std::getenv("PATH");
  const std::string path = variable ? variable : "";
  if (std::system("dot -V >/dev/null 2>&1") == 0) {
    write_graph(loss, folder / "loss.svg", {{"x", x}});
    const std::string svg = read_file(folder / "loss.svg");
    CHECK(svg.find("<svg") != std::string::npos);
    CHECK(svg.find(">multiply<") != std::string::npos);
    CHECK(svg.find(">(2,) f64<") != std::string::npos);
  } else {
    MESSAGE("graphviz is not installed: no picture was drawn");
  }
  // A 'dot' that fails.
  write_file(folder / "dot", "#!/bin/sh\necho 'no fonts' >&2\nexit 3\n");
  std::filesystem::permissions(folder / "dot", std::filesystem::perms::owner_all);
  ::setenv("PATH", folder.path().c_str(), 1);
  const std::string failed = error_of([&] { write_graph(loss, folder / "failed.svg"); });
  CHECK(failed.find("it ended with status 3: no fonts") != std::string::npos);
  // None at all.
  std::filesystem::remove(folder / "dot");
  CHECK(error_of([&] { write_graph(loss, folder / "none.svg"); }).find("apt-get install graphviz") !=
        std::string::npos);
  ::setenv("PATH", path.c_str(), 1);
  CHECK_FALSE(std::filesystem::exists(folder / "failed.svg"));
  CHECK_FALSE(std::filesystem::exists(folder / "none.svg"));
}
