// Precompiled for apps/: the two libraries that take most of its compile time.
#pragma once

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>
