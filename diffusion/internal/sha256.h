// SHA-256, so that a manifest can say which weights it means.
#pragma once

#include <string>

namespace halfstep {

/// The SHA-256 of a file's contents as 64 hexadecimal digits, as `sha256sum` prints it. Throws Error.
std::string sha256_of_file(const std::string& path);

}  // namespace halfstep
