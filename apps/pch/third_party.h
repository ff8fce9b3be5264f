// Precompiled for apps/: the two libraries that take most of its compile time. Nothing includes it by name, and a
// precompiled header is a main file to the compiler, so it has no include guard.
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>
