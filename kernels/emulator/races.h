// The race detector: which thread last wrote each two bytes of shared and device memory, which two last read it, and
// what has happened since that orders them.
//
// Accesses are announced by the hooks that clang's `-fsanitize=thread` calls in kernels (see races.cpp), and by the
// emulator for copies it makes itself. Two accesses of which one writes are ordered when they come from one thread, or
// from one block with a barrier in between, or from one warp with a `__syncwarp` in between. Blocks are never ordered.
#pragma once

#include "memory.h"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace emulator {

#ifdef CORONET_CHECKED
constexpr bool DETECTS_RACES = true;
#else
constexpr bool DETECTS_RACES = false;
#endif

/// A place in a kernel: the address that a call from there returns to. In sentences it is `{0x1234}`, which the driver
/// in Rust replaces by files and lines. Null in the plain build, which keeps none.
using Site = const void*;

std::string marked(Site site);

class Races {
public:
    /// Forgets all that was before.
    void start_launch();

    /// A block whose shared memory lies from `shared` on.
    void start_block(const unsigned char* shared, size_t shared_bytes);

    void pass_barrier() { barrier_++; }
    void pass_warp_barrier(unsigned warp) { warp_barriers_[warp]++; }

    /// Half a sentence on what is wrong with an access of the block's thread number `thread`, or nothing.
    std::string access(const void* address, size_t bytes, bool writes, unsigned thread, Site site,
                       Allocations& allocations);

private:
    struct Access {
        uint32_t block = 0, barrier = 0, warp_barrier = 0;
        uint32_t thread = NOBODY;
        Site site = nullptr;
    };
    /// Two bytes of memory. What is older than `since` is forgotten.
    struct Cell {
        uint64_t since = 0;
        Access writer, readers[2];
    };
    static constexpr uint32_t NOBODY = ~0u;
    static constexpr size_t CELL_BYTES = 2;
    static constexpr size_t PAGE_CELLS = 2048;

    Cell* device_cell(uintptr_t address);
    bool ordered(const Access& before, const Access& now) const;
    std::string touch(Cell& cell, const Access& now, bool writes, bool is_shared);

    uint64_t clock_ = 0, launch_start_ = 0, block_start_ = 0;
    uint32_t block_ = 0, barrier_ = 0;
    uint32_t warp_barriers_[32] = {};
    uintptr_t shared_ = 0;
    std::vector<Cell> shared_cells_;
    std::unordered_map<uintptr_t, std::unique_ptr<Cell[]>> pages_;
    std::pair<uintptr_t, Cell*> last_page_{~uintptr_t(0), nullptr};
};

}  // namespace emulator
