// What is wrong with a kernel: texts that are printed, kept for tests, and turned into CUDA's error status at
// the next synchronisation, as on a real device.
#pragma once

#include <string>
#include <vector>

namespace halfstep::emulation {

/// Takes a finding up. After the first ten of a launch they are only counted.
void report(const std::string& text);
/// Begins a launch: the limit counts anew.
void start_reports();
/// The findings since the last call.
std::vector<std::string> take_reports();
/// Makes the runtime's error pending without a finding.
void fail_silently();
/// Whether a finding has come since the last call: the runtime's pending error.
bool take_failure();

}  // namespace halfstep::emulation
