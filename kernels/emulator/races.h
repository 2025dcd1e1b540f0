// The race detector: which thread last wrote each two bytes of shared and device memory, which two last read it, and
// what has happened since that orders them.
//
// Accesses are announced by the hooks that clang's `-fsanitize=thread` calls in kernels (see races.cpp), and by the
// emulator for copies it makes itself. Two accesses of which one writes are ordered when they come from one thread, or
// from one block with a barrier in between, or from one warp with a `__syncwarp` in between. What a block has done
// before a thread's fence and atomic operation happens before what another block does after its atomic operation on the
// same number and a fence; what that block passes on in turn is not followed.
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

    /// A fence of the block's thread number `thread`.
    void fence(unsigned thread);

    /// An atomic operation of the thread on this number.
    void meet(const void* address, unsigned thread);

    /// Half a sentence on what is wrong with an access of the block's thread number `thread`, or nothing.
    std::string access(const void* address, size_t bytes, bool writes, unsigned thread, Site site,
                       Allocations& allocations);

private:
    struct Access {
        uint32_t block = 0, barrier = 0, warp_barrier = 0;
        uint32_t thread = NOBODY;
        Site site = nullptr;
    };
    /// What one block has passed on at an atomic operation: all that it did before barrier `barrier`, and what thread
    /// `by` did.
    struct Passed {
        uint32_t block, barrier, by;
    };
    /// What the running block has been passed by another: thread `to` knows it at once, the others from the barrier
    /// after `since` on.
    struct Known {
        uint32_t barrier, by, to, since;
    };
    /// A thread of the running block between fences and atomic operations.
    struct Sync {
        bool has_fenced = false;
        uint32_t fenced_at = 0;
        std::vector<Passed> met;
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
    std::unordered_map<uintptr_t, std::vector<Passed>> numbers_;
    std::unordered_map<uint32_t, Known> known_;
    std::unordered_map<unsigned, Sync> syncs_;
    std::unordered_map<uintptr_t, std::unique_ptr<Cell[]>> pages_;
    std::pair<uintptr_t, Cell*> last_page_{~uintptr_t(0), nullptr};
};

}  // namespace emulator
