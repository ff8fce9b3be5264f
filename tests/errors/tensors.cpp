// Shapes and tensors.
#include <doctest/doctest.h>

#include "tensor/device.h"
#include "tensor/ops.h"
#include "tests/errors/rows.h"

using namespace halfstep;
using namespace halfstep::test;

TEST_CASE("errors of shapes and tensors") {
  const Tensor m43 = ones({4, 3});
  check_rows({
      {"too many axes", [] { Dims::filled(9, 1); }, "[shape] at most 8 axes are supported, got one more"},
      {"insert position",
       [] {
         Shape({1, 2}).insert(3, 1);
       },
       "[shape] insert position 3 is outside 0..2"},
      {"erase position",
       [] {
         Shape({1, 2}).erase(2);
       },
       "[shape] erase position 2 is outside 0..1"},
      {"undefined tensor", [] { Tensor().clone(); },
       "[tensor] expected a tensor, got an undefined one (default-constructed)"},
      {"negative size",
       [] {
         Tensor::empty({2, -3});
       },
       "[empty] sizes must not be negative, got (2, -3)"},
      {"number of values",
       [] {
         Tensor::from<double>({1, 2}, {3});
       },
       "[from] expected 3 values for shape (3,), got 2"},
      {"axis", [&] { m43.size(2); }, "[size] axis 2 is outside -2..1 of a tensor with 2 axes"},
      {"axis of a scalar", [] { ones({}).size(0); },
       "[size] expected a tensor with axes, got a scalar and axis 0"},
      {"axis of transpose", [&] { m43.transpose(0, -3); },
       "[transpose] axis -3 is outside -2..1 of a tensor with 2 axes"},
      {"axis of unsqueeze", [&] { m43.unsqueeze(3); },
       "[unsqueeze] axis 3 is outside -3..2 of a tensor with 3 axes"},
      {"axis of squeeze", [&] { m43.squeeze(5); },
       "[squeeze] axis 5 is outside -2..1 of a tensor with 2 axes"},
      {"axis of slice", [&] { m43.slice(2, 0, 1); },
       "[slice] axis 2 is outside -2..1 of a tensor with 2 axes"},
      {"axis of permute",
       [&] {
         m43.permute({0, 2});
       },
       "[permute] axis 2 is outside -2..1 of a tensor with 2 axes"},
      {"axis of sum", [&] { sum(m43, {2}); }, "[sum] axis 2 is outside -2..1 of a tensor with 2 axes"},
      {"axis of concat", [&] { concat({m43}, 2); },
       "[concat] axis 2 is outside -2..1 of a tensor with 2 axes"},
      {"squeeze of a size", [&] { m43.squeeze(0); }, "[squeeze] expected size 1 on axis 0 of (4, 3), got 4"},
      {"range", [&] { m43.slice(0, 3, 9); }, "[slice] range 3..9 is outside axis 0 of (4, 3)"},
      {"number of axes", [&] { m43.permute({0}); }, "[permute] expected 2 axes for (4, 3), got 1"},
      {"axis twice",
       [&] {
         m43.permute({0, -2});
       },
       "[permute] expected each axis once, got axis 0 twice"},
      {"expand",
       [&] {
         m43.expand({4, 4});
       },
       "[expand] (4, 3) does not broadcast to (4, 4); sizes must be equal or 1, aligned at the last axis"},
      {"reshape", [&] { m43.reshape({5}); }, "[reshape] (4, 3) has 12 elements and does not fit (5,)"},
      {"reshape with two unknown sizes",
       [&] {
         m43.reshape({-1, -1});
       },
       "[reshape] at most one size may be -1, got (-1, -1)"},
      {"item of many", [&] { m43.item(); }, "[item] expected one element, got shape (4, 3)"},
      {"copy from another device",
       [&] {
         m43.copy_(elsewhere({4, 3}));
       },
       "[copy_] expected a tensor on 'cpu', got one on 'reference'; use to(device)"},
      {"copy of another shape", [&] { m43.copy_(ones({4})); }, "[expand] (4,) does not broadcast to (4, 3)*"},
  });
}

namespace {

/// A device that can record, if only in name.
Device& recording_device() {
  static const Backend backend = [] {
    Backend b = reference_backend();
    b.name = "recorder";
    b.begin_capture = [] {};
    b.end_capture = []() -> void* { return nullptr; };
    return b;
  }();
  static Device& device = *new Device(backend);  // as all devices, for the life of the process
  return device;
}

/// Misuse of a device whose calls are being recorded.
std::function<void()> recorded(const std::function<void()>& misuse) {
  return [misuse] {
    struct Recording {
      Recording() { recording_device().begin_capture(); }
      ~Recording() { recording_device().end_capture(); }
    } recording;
    misuse();
  };
}

}  // namespace

TEST_CASE("errors of recorded work") {
  const TensorOptions options{DType::f32, &recording_device()};
  const Tensor there = Tensor::ones({2}, options);
  check_rows({
      {"an upload", recorded([&] { Tensor::from(std::vector<float>{1}, {1}, options); }),
       "[upload] expected work on device 'recorder' alone while it is being recorded, got upload; do it "
       "before, and "
       "hand the result in as an input"},
      {"a download", recorded([&] { there.to_vector<float>(); }),
       "[download] expected work on device 'recorder' alone while it is being recorded, got download; *"},
      {"waiting", recorded([] { recording_device().synchronize(); }),
       "[synchronize] expected work on device 'recorder' alone while it is being recorded, got synchronize; "
       "*"},
      {"recording in a recording", recorded([] { recording_device().begin_capture(); }),
       "[begin_capture] expected work on device 'recorder' alone while it is being recorded, got "
       "begin_capture; *"},
      {"a device that records nothing", [] { cpu_device().begin_capture(); },
       "[begin_capture] device 'cpu' cannot record graphs"},
      {"the end without a beginning", [] { recording_device().end_capture(); },
       "[end_capture] expected calls that are being recorded on device 'recorder', got none"},
      {"two arenas at once",
       [] {
         Allocator& allocator = recording_device().allocator;
         Allocator::Arena first(allocator), second(allocator);
         const Allocator::Arena::Use use(first);
         const Allocator::Arena::Use again(second);
       },
       "[arena] expected one arena in use at a time, got a second one"},
  });
}
