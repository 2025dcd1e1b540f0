// Runs the blocks of a launch on the calling thread, each CUDA thread as a fiber: one block after another, or, where they
// are to be there at once, one until it waits for another.
//
// Adversarial on purpose: shared memory holds NaN when a block starts, asynchronous copies are performed as late as the
// wait allows, at once, or at random, and blocks and threads run in the order that the schedule says. A kernel that
// is right gives the same bits under every schedule. A kernel that is wrong ends its launch with a sentence.
#pragma once

#include "fiber.h"
#include "memory.h"
#include "races.h"
#include "traffic.h"

#include <cstdarg>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

// Where the kernel has called the function that this stands in.
#ifdef CORONET_CHECKED
#define CALLER __builtin_return_address(0)
#else
#define CALLER nullptr
#endif

struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x = 1, y = 1, z = 1;
};

namespace emulator {

enum class Format;

constexpr unsigned WARP = 32;
/// Warps that ask for a product together.
constexpr unsigned WARPGROUP = 4;

/// Every float and half of this byte is NaN.
constexpr unsigned char POISON_BYTE = 0xff;

/// So many blocks are there at once at most; the driver in Rust knows it, too.
constexpr uint64_t MOST_BLOCKS_AT_ONCE = 24;

/// In what order blocks and threads run.
enum class Order : uint32_t { Forward, Reversed, Random };

/// When an asynchronous copy, or product, happens between its issue and the wait for it.
enum class Copies : uint32_t { Late, AtOnce, Random };

/// One of the ways a GPU might run a launch.
struct Schedule {
    Order order;
    Copies copies;
    uint64_t seed;
};

/// The built-in variables of the thread that is running.
struct Position {
    uint3 thread, block;
    dim3 block_size, grid_size;
    /// The thread's number in its block, x fastest.
    unsigned linear;

    unsigned lane() const { return linear % WARP; }
};

// Constant at first, which spares other files to ask at every access whether it has been constructed.
#ifdef __clang__
#define CONSTANT_AT_FIRST [[clang::require_constant_initialization]]
#else
#define CONSTANT_AT_FIRST __constinit
#endif
CONSTANT_AT_FIRST extern thread_local Position here;

/// A kernel with its arguments taken from an array of pointers, as cuLaunchKernel takes them.
using Entry = void (*)(void* const* arguments);

struct Launch {
    const char* name;
    Entry entry;
    unsigned most_threads, most_shared;
    void* const* arguments;
    dim3 grid, block;
    size_t shared_bytes;
    /// All blocks are there at once, and may wait for each other.
    bool is_cooperative;
    Schedule schedule;
    /// What the checked build adds its counts to; may be null.
    Traffic* traffic;
};

/// What the last lane to reach a collective does for all: `lanes` holds what each lane of `mask` brought.
using Collective = void (*)(void* const* lanes, unsigned mask);

class Multiprocessor {
public:
    /// The one of the calling thread.
    static Multiprocessor& current();

    /// Runs all blocks; returns what went wrong, or nothing.
    std::string run(const Launch& launch);

    // What the running CUDA thread may ask for.

    /// From here on the thread may touch device memory; every thread of a launch must come here.
    void wait_for_launches_before();

    /// Asks for a line of 128 bytes to be fetched; it must begin in device memory.
    void fetch_line(const unsigned char* line);

    /// Says which lines the threads of the launch fetch, together and each once: those of so many bytes. All say the same.
    void expect_fetched(const void* start, int bytes);

    /// `__syncthreads`: every thread of the block must come here.
    void barrier();

    /// `__syncthreads_or`: as `barrier`, and tells each thread whether any has said yes.
    bool barrier_or(bool yes);

    /// Meets the other lanes of `mask`; `perform` may be null. `site` is where the kernel calls, unless it calls this.
    void collective(const char* name, unsigned mask, void* mine, Collective perform, Site site = nullptr);

    /// `__threadfence`: what the thread knows of happens before what it does from now on, for other blocks, too.
    void fence();

    /// `atomicInc`.
    unsigned increment(unsigned* address, unsigned most);

    /// `atomicAdd`.
    unsigned add(unsigned* address, unsigned number);

    /// `atomicMin`.
    unsigned lower(unsigned* address, unsigned number);

    /// What a number that blocks count by is now.
    unsigned counter(const unsigned* address);

    /// Waits until another block has changed such a number from what it was.
    void wait_for_change(const unsigned* address, unsigned from);

    /// The block's dynamic shared memory.
    void* dynamic_shared() { return block_->shared.data() + block_->shared_start; }

    /// The block's array that is declared at `site`.
    void* static_shared(const void* site, size_t bytes);

    /// Asks for `bytes` (4, 8 or 16) to be copied to shared memory; only the first `source_bytes` are read, the rest is
    /// zero.
    void copy_async(void* to, const void* from, unsigned bytes, unsigned source_bytes);

    /// Ends a group of copies.
    void commit_copies();

    /// Waits until at most `pending` of the thread's groups are unfinished.
    void wait_copies(size_t pending);

    /// Makes a barrier of 8 bytes in shared memory, to which `count` threads come in each phase.
    void init_barrier(uint64_t* barrier, unsigned count);

    /// Comes to such a barrier.
    void arrive(uint64_t* barrier);

    /// Waits for the end of its phase of this parity: the one that runs, or the one before.
    void wait_for_phase(uint64_t* barrier, unsigned parity);

    /// Tensor cores may read by themselves what the thread has written.
    void fence_for_tensor_cores();

    /// A matrix in shared memory, as tensor cores are told of it.
    uint64_t shared_matrix(const void* start, int leading, int stride);

    /// Hands the thread's sums to the products that are asked for next.
    void fence_sums();

    /// Asks for sums += a b of a warpgroup, of which a warp's share happens between this and the wait for it; until then its
    /// sums are NaN.
    void ask_for_product(Format format, unsigned columns, float* sums, uint64_t a, uint64_t b);

    /// Ends a group of products.
    void commit_products();

    /// Waits until at most `pending` of the warp's groups are unfinished.
    void wait_for_products(size_t pending);

    /// Ends the launch unless a row of `bytes` bytes lies in shared memory, aligned to its size; the running thread reads
    /// it, at `site`.
    void check_shared_row(const void* row, size_t bytes, Site site);

    /// Hears of a load or store of the running thread, in the checked build.
    void note_access(const void* address, size_t bytes, bool writes, Site site);

    /// Ends the launch with this sentence, about the running thread's last call.
    [[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 2, 3)));

    /// The same about another place; null where the sentence itself names it.
    [[noreturn]] void fail_at(Site site, const char* format, ...) __attribute__((format(printf, 3, 4)));

private:
    struct Copy {
        void* to;
        const void* from;
        unsigned bytes, source_bytes;
        /// Where it was issued.
        Site site;
        /// It has happened already, but must still be waited for.
        bool is_done;
    };

    /// Sums that a thread has handed to tensor cores, and for how many products.
    struct HeldSums {
        float* at;
        size_t products;
        std::vector<float> numbers;
    };

    struct Thread {
        Fiber fiber;
        uint3 index{};
        const char* waits_at = nullptr;
        Site waits_from = nullptr;
        bool ended = false;
        /// For the launches before.
        bool has_waited = false;
        /// Copies not yet performed, oldest first, and where each committed group ends.
        std::vector<Copy> copies;
        std::vector<size_t> groups;
        /// Products asked for since the block began, where each committed group of those unfinished ends, and the sums.
        size_t products = 0;
        std::vector<size_t> product_groups;
        std::vector<HeldSums> held;
        /// Whether a fence stands behind all use of sums.
        bool has_fenced_sums = false;
    };

    /// What a warpgroup is asked for.
    struct Product {
        Format format;
        unsigned columns;
        uint64_t a, b;

        bool operator!=(const Product& other) const {
            return format != other.format || columns != other.columns || a != other.a || b != other.b;
        }
    };

    /// A warp's share of one.
    struct Share {
        Product product;
        Site site;
        bool is_done;
        unsigned asked;
        float* sums[WARP];
    };

    /// A warp's unfinished shares, oldest first, and how many came before.
    struct Warp {
        std::deque<Share> shares;
        size_t finished = 0;
    };

    /// A barrier in shared memory.
    struct SharedBarrier {
        uint64_t* at;
        unsigned count, missing, phase;
        std::vector<unsigned> waiting;

        /// What stands in its memory.
        uint64_t mark() const { return 0xba441e4000000000u | uint64_t(phase & 0xffffu) << 16 | missing; }
    };

    /// Lanes that wait for the rest of their mask.
    struct Meeting {
        const char* name;
        Collective perform;
        unsigned warp, mask, arrived;
        void* lanes[WARP];
    };

    struct SharedArray {
        const void* site;
        size_t offset;
    };

    /// A thread that waits for a number to change.
    struct Watch {
        unsigned thread;
        const unsigned* number;
        unsigned from;
    };

    /// A block, and all that is its own.
    struct Block {
        uint3 index{};
        size_t first_stack = 0;
        std::vector<Thread> threads;
        unsigned running = 0, alive = 0, at_barrier = 0;
        /// What threads have said at the barrier so far, and what that came to at the last one.
        bool vote = false, outcome = false;
        std::vector<unsigned> ready;
        std::vector<Watch> watches;
        std::vector<Meeting> meetings;
        std::vector<SharedBarrier> barriers;
        std::vector<Warp> warps;
        /// By warpgroup, all products that any of its warps has asked for.
        std::vector<std::vector<Product>> products;
        std::vector<unsigned char> shared;
        size_t shared_start = 0, shared_end = 0;
        std::vector<SharedArray> arrays;
        /// Bytes of them all.
        size_t declared = 0;
        Races::Block races;
    };

    static void enter_thread();
    std::string check(const Launch& launch) const;
    std::vector<uint64_t> block_order();
    void run_in_turn();
    void run_together();
    void go_on();
    static bool has_changed(const Watch& watch) { return *watch.number != watch.from; }
    static bool can_go_on(const Block& block);
    void enter_block(Block& block);
    void place_shared(Block& block);
    void start_block(uint3 index);
    void finish_block();
    void wake(unsigned first, unsigned count, unsigned except);
    const Fiber& next_thread();
    void resume_next();
    void wait_at(const char* what);
    void let_another_run();
    void pass_barrier(const char* name);
    void check_counter(const unsigned* address, const char* what);
    SharedBarrier& barrier_at(uint64_t* barrier);
    void check_products_of_warps();
    const unsigned char* place_of(uint64_t matrix) const;
    void note_matrices(const Share& share, unsigned warp);
    void perform(Share& share, unsigned warp);
    void perform_shares(unsigned warp);
    void finish_products(size_t pending);
    void give_back_sums(Thread& thread, const float* sums);
    void begin_atomic(const unsigned* address, Site from);
    std::string place() const;
    std::string deadlock() const;
    [[noreturn]] void stop(Site site, const char* format, va_list values);
    [[noreturn]] void report_deadlock();
    [[noreturn]] void abandon_block();
    void perform(const Copy& copy);
    void check_turn(const void* address, Site site);
    void check_fetched();
    void check_access(const void* address, size_t bytes, bool writes, Site site);
    void count_access(const void* address, size_t bytes, Site site);
    uint64_t random();

    const Launch* launch_ = nullptr;
    std::string problem_;
    Stacks stacks_;
    Fiber launcher_;
    /// Kept from launch to launch; the first, unless the launch is cooperative, is all blocks in turn.
    std::vector<std::unique_ptr<Block>> blocks_;
    /// The one that is running.
    Block* block_ = nullptr;
    /// The lines that the launch has fetched, and those that it was said to fetch.
    std::vector<const unsigned char*> fetched_;
    const unsigned char* fetched_from_ = nullptr;
    int fetched_bytes_ = 0;
    /// Where the running thread has called last.
    Site called_from_ = nullptr;
    uint64_t random_state_ = 0;
    Allocations allocations_;
    Races races_;
    TrafficCounter traffic_;
    /// A sentence that outlives the frames that `fail` leaves behind.
    char race_[300] = {};
};

}  // namespace emulator
