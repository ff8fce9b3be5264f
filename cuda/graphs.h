// Recording of the stream's work into graphs; the entries are in entries.h.
#pragma once

namespace halfstep::cuda {

/// Whether there is a graph, or one is being recorded: memory that calls have used must then stay.
bool graphs_exist();

}  // namespace halfstep::cuda
