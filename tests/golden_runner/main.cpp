// build/tests/golden DIR: compares the framework with the numbers of other programs.
#include "tests/golden_runner/runner.h"

int main(int argc, char** argv) {
  return halfstep::test::run_golden(std::vector<std::string>(argv + 1, argv + argc), stdout);
}
