// Device memory of the emulated GPU.
//
// One range of addresses is reserved twice as large as the device: the lower half, whose addresses are the
// device pointers, is never readable, so the host cannot use a device pointer by mistake; the upper half
// holds the bytes (see kView in thread.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "cuda/emulation/thread.h"

namespace halfstep::emulation {

/// A live or recently freed piece of device memory.
struct Allocation {
  uint64_t begin = 0, end = 0;
  bool freed = false;
};

/// Reserves the addresses once; called before any other function here.
void reserve_device_memory();
/// A device pointer aligned to 512 bytes, or 0 when the device is full. Allocations are never adjacent.
uint64_t allocate_device(size_t bytes);
/// False if `address` is not the begin of a live allocation.
bool free_device(uint64_t address);
/// Bytes of live allocations, and of the whole device (HALFSTEP_EMULATION_MEMORY in MiB, default 4096).
size_t device_bytes_in_use();
size_t device_bytes_total();
/// The allocation that holds or last held `address`; begin = 0 if none did.
Allocation allocation_of(uint64_t address);
/// Whether it is a device address at all.
bool is_device_address(uint64_t address);
/// "byte 12 of the 64 bytes allocated at 0x...", "4 bytes past the end of ...", for reports.
std::string describe_address(uint64_t address);
/// The bytes themselves.
inline uint8_t* view_of(uint64_t address) { return reinterpret_cast<uint8_t*>(address + kView); }

}  // namespace halfstep::emulation
