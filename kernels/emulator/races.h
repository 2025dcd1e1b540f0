// The race detector: which thread last wrote each two bytes of shared and device memory, which two last read it, and
// what has happened since that orders them.
//
// Accesses are announced by the hooks that clang's `-fsanitize=thread` calls in kernels (see races.cpp), and by the
// emulator for copies it makes itself. Two accesses of which one writes are ordered when they come from one thread, or
// from one block with a barrier in between, or from one warp with a `__syncwarp` in between. What a block has done
// before a thread's fence and atomic operation happens before what another block does after its atomic operation on the
// same number, or its wait for that to change, and a fence. What it knows of further blocks it passes on, too.
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
    struct Block;

    /// Forgets all that was before.
    void start_launch();

    /// A block whose shared memory lies from `shared` on; it is the running one.
    void start_block(Block& block, const unsigned char* shared, size_t shared_bytes, size_t threads);

    /// Goes back to a block that was left.
    void enter_block(Block& block) { block_ = &block; }

    void pass_barrier() { block_->barrier++; }
    void pass_warp_barrier(unsigned warp);

    /// The block has a barrier in shared memory: from now on its threads keep clocks.
    void keep_clocks();

    /// The thread comes to a barrier in shared memory.
    void arrive(const void* barrier, unsigned thread);

    /// All have come: who waits from now on knows what they knew.
    void end_phase(const void* barrier);

    /// The thread has waited for a phase.
    void pass_phase(const void* barrier, unsigned thread);

    /// Tensor cores may read what the thread has written.
    void fence_for_tensor_cores(unsigned thread);

    /// A fence of the block's thread number `thread`.
    void fence(unsigned thread);

    /// The thread has seen what others have made of this number: from its next fence on it knows what they passed on.
    void learn(const void* address, unsigned thread);

    /// The thread changes this number: who sees it learns what it has done and known before its last fence.
    void pass_on(const void* address, unsigned thread);

    /// Half a sentence on what is wrong with an access of the block's thread number `thread`, or nothing.
    std::string access(const void* address, size_t bytes, bool writes, unsigned thread, Site site,
                       Allocations& allocations, bool by_tensor_cores = false);

private:
    /// What is wrong with an access. Sentences are for the few where something is.
    enum class Finding { None, Writer, FirstReader, SecondReader, Unwritten, Unfenced };
    struct Access {
        uint32_t block = 0, barrier = 0, warp_barrier = 0;
        uint32_t thread = NOBODY;
        /// By the thread's own clock.
        uint32_t tick = 0;
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

public:
    /// What is the running block's own, kept for it while others run.
    struct Block {
        uint64_t start = 0;
        uint32_t number = 0, barrier = 0;
        uint32_t warp_barriers[32] = {};
        uintptr_t shared = 0;
        std::vector<Cell> shared_cells;
        /// By block, what came first before what says more.
        std::unordered_map<uint32_t, std::vector<Known>> known;
        std::unordered_map<unsigned, Sync> syncs;
        /// Of each thread: its clock, which goes on when it tells others what it has done, and what it was at its last fence
        /// for tensor cores.
        std::vector<uint32_t> ticks, fenced;
        /// By thread, what it knows of each: all that was done before that tick. Empty before there is a barrier.
        std::vector<uint32_t> clocks;
        /// By barrier, what those have known who have come, and those who had come when its last phase ended.
        std::unordered_map<uintptr_t, std::vector<uint32_t>> gathered, told;
    };

private:
    static constexpr uint32_t NOBODY = ~0u;
    static constexpr size_t CELL_BYTES = 2;
    static constexpr size_t PAGE_CELLS = 2048;

    Cell* device_cell(uintptr_t address);
    std::vector<uint32_t> clock_of(unsigned thread);
    bool ordered(const Access& before, const Access& now) const;
    Finding touch(Cell& cell, const Access& now, bool writes, bool is_shared, bool by_tensor_cores);
    std::string described(Finding finding, const Cell& cell, const Access& now) const;

    uint64_t clock_ = 0, launch_start_ = 0;
    uint32_t blocks_ = 0;
    Block* block_ = nullptr;
    std::unordered_map<uintptr_t, std::vector<Passed>> numbers_;
    std::unordered_map<uintptr_t, std::unique_ptr<Cell[]>> pages_;
    std::pair<uintptr_t, Cell*> last_page_{~uintptr_t(0), nullptr};
};

}  // namespace emulator
