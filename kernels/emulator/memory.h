// Device memory of the emulator: host memory that knows its bounds, so that a bulk copy past them is found.
#pragma once

#include <cstddef>

namespace emulator {

/// Memory aligned as cuMemAlloc aligns it, holding NaN; null when it cannot be had.
void* allocate(size_t bytes);

/// Gives back what `allocate` gave.
void release(void* memory);

/// Bytes from `address` to the end of the allocation that it lies in; 0 outside of all.
size_t bytes_left(const void* address);

}  // namespace emulator
