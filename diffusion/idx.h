// Data sets of small pictures in the IDX format of MNIST (http://yann.lecun.com/exdb/mnist/, "File formats"):
// a magic number 0x00 0x00 TYPE RANK, RANK sizes of 4 bytes (all big endian), then the bytes. Type 8 is u8.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace halfstep {

/// Labelled pictures in the host's memory.
struct Dataset {
  std::string name;
  int64_t count = 0, height = 0, width = 0, channels = 1;
  std::vector<uint8_t> pixels;  ///< [count, height, width, channels], 0 ... 255
  std::vector<uint8_t> labels;  ///< [count], 0 ... num_classes - 1
  int num_classes = 0;          ///< largest label + 1

  int64_t pixels_per_image() const { return height * width * channels; }
};

/// The part of a data set: its training or its test pictures.
enum class Split { train, test };

/// Reads the pair `train-images-idx3-ubyte` and `train-labels-idx1-ubyte` (or `t10k-...` for the test split)
/// of a folder, plain or with `.gz`; whether a file is compressed is decided by its contents. The data set is
/// named after the folder. Throws Error that names the file, the byte and what was expected there: missing,
/// truncated, overlong, corrupt, foreign or swapped files, and numbers of images and labels that differ.
Dataset load_dataset(const std::string& folder, Split split);

/// Where Debian's package dataset-fashion-mnist puts Fashion-MNIST. Throws Error with a hint if it is not
/// there.
std::string default_dataset_folder();

}  // namespace halfstep
