#include "cuda/graphs.h"

#include <atomic>
#include <memory>
#include <utility>

#include "cuda/entries.h"
#include "cuda/runtime.h"

namespace halfstep::cuda {
namespace {

struct Graph {
  cudaGraphExec_t executable = nullptr;
  int64_t kernels = 0;  ///< that one launch starts

  Graph() { ++count; }
  ~Graph() {
    if (executable) cudaGraphExecDestroy(executable);  // at exit the driver may be gone: no check
    --count;
  }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  static inline std::atomic<int64_t> count = 0;
};

std::unique_ptr<Graph> recording;

}  // namespace

bool graphs_exist() { return Graph::count > 0; }

void begin_capture() {
  // Relaxed: the allocator and the workspace may need memory, and cudaMalloc puts nothing into the graph.
  check(cudaStreamBeginCapture(stream(), cudaStreamCaptureModeRelaxed));
  recording = std::make_unique<Graph>();
  recording->kernels = -launches();
}

void* end_capture() {
  std::unique_ptr<Graph> graph = std::move(recording);
  graph->kernels += launches();
  count_launches(-graph->kernels);  // recorded, not started
  cudaGraph_t recorded = nullptr;
  check(cudaStreamEndCapture(stream(), &recorded));
  const cudaError_t status = cudaGraphInstantiate(&graph->executable, recorded, 0);
  cudaGraphDestroy(recorded);
  check(status);
  return graph.release();
}

void launch_graph(void* graph) {
  const auto* const g = static_cast<const Graph*>(graph);
  check(cudaGraphLaunch(g->executable, stream()));
  count_launches(g->kernels);
}

void destroy_graph(void* graph) { delete static_cast<Graph*>(graph); }

}  // namespace halfstep::cuda
