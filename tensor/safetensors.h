// The .safetensors file format: named tensors behind a JSON header, readable by every framework
// (https://github.com/huggingface/safetensors, "Format"). A file is
//   8 bytes       length of the header, little endian
//   the header    {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, ...,
//                  "__metadata__": {"key": "text", ...}}, padded with spaces so that the data is aligned
//   the data      row-major, little endian, without gaps; offsets count from the end of the header
#pragma once

#include <map>
#include <string>
#include <string_view>

#include "tensor/tensor.h"

namespace halfstep {

/// What a .safetensors file holds.
struct NamedTensors {
  std::map<std::string, Tensor> tensors;
  std::map<std::string, std::string> metadata;
  /// The file that this was read from, for error messages; empty otherwise.
  std::string source;

  /// The tensor of that name; throws Error that names the source and what it holds.
  const Tensor& at(const std::string& name) const;
};

/// Reads a file onto `device`. F32, F64, BF16 and I64 stay what they are; F16 becomes f32; I32, I16, I8, U8
/// and BOOL become i64. A shape [] is a scalar. Nothing in the file is trusted: Error names the file, the
/// byte and the expectation for a truncated, overlong or inconsistent file, repeated names, holes and
/// overlaps in the data, and dtypes that are not in the list above.
NamedTensors read_safetensors(const std::string& path, Device& device = cpu_device());

/// Writes a file durably (see write_file). Tensors may be on any device and non-contiguous. Throws Error for
/// a name or text that is not UTF-8, for the reserved name "__metadata__", and when the file cannot be
/// written.
void write_safetensors(const std::string& path, const NamedTensors& content);

/// The same from and to the bytes of a file; `source` is the name for error messages.
NamedTensors parse_safetensors(std::string_view bytes, const std::string& source,
                               Device& device = cpu_device());
std::string format_safetensors(const NamedTensors& content);

}  // namespace halfstep
