// Device memory of the emulator: host memory that knows its bounds, so that a bulk copy past them is found.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace emulator {

/// Memory aligned as cuMemAlloc aligns it, holding NaN; null when it cannot be had.
void* allocate(size_t bytes);

/// Gives back what `allocate` gave.
void release(void* memory);

/// Makes every access to this part of an allocation an error of AddressSanitizer, in its build; else does nothing.
void close(const void* memory, size_t bytes);

/// Ends what `close` began.
void open(const void* memory, size_t bytes);

/// An allocation: from `begin` to before `end`.
struct Range {
    uintptr_t begin, end;
};

/// The allocations that are alive when a launch starts, searched from the one found last.
class Allocations {
public:
    void refresh();

    /// The allocation that holds an address, or null.
    const Range* find(const void* address);

private:
    std::vector<Range> ranges_;
    size_t last_ = 0;
};

}  // namespace emulator
