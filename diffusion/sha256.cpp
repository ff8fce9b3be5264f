#include <openssl/evp.h>

#include "diffusion/internal/sha256.h"
#include "tensor/error.h"
#include "tensor/files.h"

namespace halfstep {

std::string sha256_of_file(const std::string& path) {
  const std::string bytes = read_file(path);
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int length = 0;
  require(EVP_Digest(bytes.data(), bytes.size(), digest, &length, EVP_sha256(), nullptr) == 1, "sha256",
          "libcrypto cannot hash '{}'; does its configuration forbid SHA-256?", path);
  std::string text;
  for (unsigned int i = 0; i < length; ++i) text += fmt::format("{:02x}", digest[i]);
  return text;
}

}  // namespace halfstep
