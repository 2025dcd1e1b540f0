// What sm_90 brought: barriers in shared memory, and products that tensor cores compute by themselves for four warps.
//
// A GPU may begin a product as soon as it is asked for, or as late as somebody waits for it, and each warp's share at another
// time. So a warp's share is computed when the schedule says, from what then lies in shared memory; its sums come back at the
// wait, and are NaN until then.

#include "matrix.h"
#include "multiprocessor.h"

#include <algorithm>
#include <cstring>

namespace emulator {
namespace {

constexpr unsigned WHOLE_WARP = ~0u;
/// Bits of an address, a distance in the descriptor of a matrix; the lowest four are left out.
constexpr uint64_t ADDRESSES = 1 << 18;
constexpr uint32_t POISON = 0xffffffffu;

uint64_t bits(uint64_t from, unsigned first, unsigned count) { return from >> first & ((uint64_t(1) << count) - 1); }

/// SplitMix64's last step, of several numbers.
uint64_t mixed(uint64_t seed, uint64_t number) {
    uint64_t z = seed + number * 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

}  // namespace

// ---- barriers ------------------------------------------------------------------------------------------------------

void Multiprocessor::init_barrier(uint64_t* barrier, unsigned count) {
    called_from_ = CALLER;
    auto at = reinterpret_cast<const unsigned char*>(barrier);
    const unsigned char* shared = block_->shared.data();
    if (at < shared + block_->shared_start || at + sizeof *barrier > shared + block_->shared_end ||
        reinterpret_cast<uintptr_t>(barrier) % sizeof *barrier != 0) {
        fail("a barrier does not lie in the block's shared memory, aligned to its 8 bytes");
    }
    if (count == 0) fail("a barrier to which nobody comes");
    if (DETECTS_RACES) {
        check_access(barrier, sizeof *barrier, true, called_from_);
        races_.keep_clocks();
    }
    auto is_here = [&](const SharedBarrier& other) { return other.at == barrier; };
    std::vector<SharedBarrier>& all = block_->barriers;
    all.erase(std::remove_if(all.begin(), all.end(), is_here), all.end());
    all.push_back({barrier, count, count, 0, {}});
    *barrier = all.back().mark();
}

Multiprocessor::SharedBarrier& Multiprocessor::barrier_at(uint64_t* barrier) {
    for (SharedBarrier& other : block_->barriers) {
        if (other.at != barrier) continue;
        if (*barrier != other.mark()) fail("a barrier's memory has been written to");
        if (DETECTS_RACES) check_access(barrier, sizeof *barrier, false, called_from_);
        return other;
    }
    fail("there is no barrier in this place");
}

void Multiprocessor::arrive(uint64_t* barrier) {
    called_from_ = CALLER;
    Site site = called_from_;
    barrier_at(barrier);
    if (launch_->schedule.order == Order::Random && !block_->ready.empty() && random() % 2 == 0) {
        let_another_run();
        called_from_ = site;
    }
    SharedBarrier& it = barrier_at(barrier);
    if (DETECTS_RACES) races_.arrive(barrier, here.linear);
    it.missing--;
    if (it.missing == 0) {
        if (DETECTS_RACES) races_.end_phase(barrier);
        it.phase++;
        it.missing = it.count;
        for (unsigned thread : it.waiting) block_->ready.push_back(thread);
        it.waiting.clear();
    }
    *barrier = it.mark();
}

void Multiprocessor::wait_for_phase(uint64_t* barrier, unsigned parity) {
    called_from_ = CALLER;
    Site site = called_from_;
    // Who comes too late, after one phase more, waits on: so does a GPU.
    while (barrier_at(barrier).phase % 2 == parity) {
        barrier_at(barrier).waiting.push_back(block_->running);
        wait_at("a barrier in shared memory");
        called_from_ = site;
    }
    if (DETECTS_RACES) races_.pass_phase(barrier, here.linear);
}

// ---- products ------------------------------------------------------------------------------------------------------

void Multiprocessor::fence_for_tensor_cores() {
    if (DETECTS_RACES) races_.fence_for_tensor_cores(here.linear);
}

uint64_t Multiprocessor::shared_matrix(const void* start, int leading, int stride) {
    called_from_ = CALLER;
    auto offset = static_cast<const unsigned char*>(start) - (block_->shared.data() + block_->shared_start);
    auto fits = [](ptrdiff_t distance) { return distance >= 0 && distance < ptrdiff_t(ADDRESSES) && distance % 16 == 0; };
    if (!fits(offset) || !fits(leading) || !fits(stride)) {
        fail("a matrix in shared memory at %td, its parts %d and %d bytes apart: all must be multiples of 16", offset,
             leading, stride);
    }
    return uint64_t(offset) >> 4 | uint64_t(leading) >> 4 << 16 | uint64_t(stride) >> 4 << 32;
}

const unsigned char* Multiprocessor::place_of(uint64_t matrix) const {
    return block_->shared.data() + block_->shared_start + 16 * bits(matrix, 0, 14);
}

namespace {

SharedMatrix matrix_at(const unsigned char* start, uint64_t matrix) {
    return {start, 16 * bits(matrix, 16, 14), 16 * bits(matrix, 32, 14)};
}

/// A warp's 16 rows of a warpgroup's 64.
SharedMatrix rows_of(SharedMatrix a, unsigned warp) {
    a.start += warp % WARPGROUP * 2 * a.stride;
    return a;
}

}  // namespace

void Multiprocessor::fence_sums() { block_->threads[block_->running].has_fenced_sums = true; }

void Multiprocessor::ask_for_product(Format format, unsigned columns, float* sums, uint64_t a, uint64_t b) {
    called_from_ = CALLER;
    Thread& thread = block_->threads[block_->running];
    unsigned number = here.linear / WARP, lane = here.lane();
    Warp& warp = block_->warps[number];
    size_t among_all = thread.products++, index = among_all - warp.finished;
    Product product{format, columns, a, b};
    if ((number / WARPGROUP + 1) * WARPGROUP > block_->warps.size()) fail("a product of fewer than four warps");
    std::vector<Product>& of_all = block_->products[number / WARPGROUP];
    if (among_all == of_all.size()) of_all.push_back(product);
    if (of_all[among_all] != product) fail("the threads of four warps ask for different products");
    if (index == warp.shares.size()) warp.shares.push_back({product, called_from_, false, 0, {}});
    Share& share = warp.shares[index];
    share.asked |= 1u << lane;
    share.sums[lane] = sums;
    if (lane == 0) note_matrices(share, number);
    auto held = std::find_if(thread.held.begin(), thread.held.end(), [&](const HeldSums& it) { return it.at == sums; });
    if (held != thread.held.end()) {
        held->products++;
        return;
    }
    if (!thread.has_fenced_sums) fail("a product takes sums that no fence of the warpgroup stands before");
    size_t count = columns / 2;
    thread.held.push_back({sums, 1, std::vector<float>(sums, sums + count)});
    memset(sums, POISON_BYTE, count * sizeof *sums);
}

/// Ends the launch unless a share's matrices lie in shared memory; the warp's first lane reads them.
void Multiprocessor::note_matrices(const Share& share, unsigned warp) {
    const unsigned char* shared = block_->shared.data();
    auto read = [&](const unsigned char* row) {
        if (row < shared + block_->shared_start || row + 16 > shared + block_->shared_end) {
            fail_at(share.site, "a product reads outside the block's shared memory");
        }
        if (!DETECTS_RACES) return;
        size_t length;
        {
            std::string problem = races_.access(row, 16, false, warp * WARP, share.site, allocations_, true);
            length = problem.copy(race_, sizeof race_ - 1);
        }
        race_[length] = 0;
        if (length > 0) fail_at(share.site, "%s", race_);
    };
    uint64_t unused = bits(share.product.a | share.product.b, 46, 18);
    if (unused != 0) fail_at(share.site, "the description of a matrix has bits that stand for what is not emulated");
    SharedMatrix a = rows_of(matrix_at(place_of(share.product.a), share.product.a), warp);
    SharedMatrix b = matrix_at(place_of(share.product.b), share.product.b);
    for (unsigned row = 0; row < 16; row++) {
        for (unsigned half = 0; half < 2; half++) read(a.start + row / 8 * a.stride + row % 8 * 16 + half * a.leading);
    }
    for (unsigned chunk = 0; chunk < share.product.columns / 8; chunk++) {
        for (unsigned k = 0; k < 16; k++) read(b.start + chunk * b.stride + k / 8 * b.leading + k % 8 * 16);
    }
}

void Multiprocessor::perform(Share& share, unsigned warp) {
    if (share.is_done) return;
    if (share.asked != WHOLE_WARP) fail_at(share.site, "some lanes of a warp never ask for its product");
    if (DETECTS_RACES) note_matrices(share, warp);
    float* sums[WARP];
    for (unsigned lane = 0; lane < WARP; lane++) {
        for (HeldSums& held : block_->threads[warp * WARP + lane].held) {
            if (held.at == share.sums[lane]) sums[lane] = held.numbers.data();
        }
    }
    SharedMatrix a = rows_of(matrix_at(place_of(share.product.a), share.product.a), warp);
    multiply_shared(share.product.format, share.product.columns, a,
                    matrix_at(place_of(share.product.b), share.product.b), sums);
    share.is_done = true;
}

/// All that the warp has asked for.
void Multiprocessor::perform_shares(unsigned warp) {
    for (Share& share : block_->warps[warp].shares) perform(share, warp);
}

void Multiprocessor::commit_products() {
    called_from_ = CALLER;
    Thread& thread = block_->threads[block_->running];
    thread.product_groups.push_back(thread.products);
    // The same for all lanes of the warp.
    uint64_t drawn = mixed(mixed(launch_->schedule.seed, here.linear / WARP), thread.products);
    Copies when = launch_->schedule.copies;
    if (when == Copies::Late || (when == Copies::Random && drawn % 2 == 0)) return;
    collective("wgmma.commit_group", WHOLE_WARP, nullptr, [](void* const*, unsigned) {
        current().perform_shares(here.linear / WARP);
    }, called_from_);
}

void Multiprocessor::wait_for_products(size_t pending) {
    called_from_ = CALLER;
    collective("wgmma.wait_group", WHOLE_WARP, &pending, [](void* const* lanes, unsigned) {
        size_t pending = *static_cast<const size_t*>(lanes[0]);
        for (unsigned lane = 1; lane < WARP; lane++) {
            if (*static_cast<const size_t*>(lanes[lane]) != pending) {
                current().fail("the lanes of a warp wait for different products");
            }
        }
        current().finish_products(pending);
    }, called_from_);
}

/// Finishes the groups of the running thread's warp but the last `pending`.
void Multiprocessor::finish_products(size_t pending) {
    unsigned number = here.linear / WARP;
    Warp& warp = block_->warps[number];
    const Thread& first = block_->threads[number * WARP];
    for (unsigned lane = 1; lane < WARP; lane++) {
        const Thread& thread = block_->threads[number * WARP + lane];
        if (thread.products != first.products || thread.product_groups != first.product_groups) {
            fail("the lanes of a warp have asked for different products");
        }
    }
    size_t groups = first.product_groups.size();
    if (groups <= pending) return;
    size_t end = first.product_groups[groups - pending - 1];
    for (; warp.finished < end; warp.finished++) {
        Share& share = warp.shares.front();
        // Until now it might have read, whenever it did.
        if (DETECTS_RACES && share.is_done) note_matrices(share, number);
        perform(share, number);
        for (unsigned lane = 0; lane < WARP; lane++) give_back_sums(block_->threads[number * WARP + lane], share.sums[lane]);
        warp.shares.pop_front();
    }
    for (unsigned lane = 0; lane < WARP; lane++) {
        std::vector<size_t>& mine = block_->threads[number * WARP + lane].product_groups;
        mine.erase(mine.begin(), mine.end() - ptrdiff_t(pending));
    }
    // What tensor cores have read for the warp any lane may now let others write.
    if (DETECTS_RACES) races_.pass_warp_barrier(number);
}

/// One product less for a thread's sums; after the last they are its own again.
void Multiprocessor::give_back_sums(Thread& thread, const float* sums) {
    auto held = std::find_if(thread.held.begin(), thread.held.end(), [&](const HeldSums& it) { return it.at == sums; });
    if (held == thread.held.end() || --held->products > 0) return;
    for (size_t i = 0; i < held->numbers.size(); i++) {
        uint32_t now;
        memcpy(&now, held->at + i, sizeof now);
        if (now != POISON) fail("a thread has written to sums before it waited for their products");
    }
    std::copy(held->numbers.begin(), held->numbers.end(), held->at);
    thread.held.erase(held);
    thread.has_fenced_sums = false;
}

/// Finds warps that asked for fewer products than others of their warpgroup.
void Multiprocessor::check_products_of_warps() {
    for (size_t thread = 0; thread < block_->threads.size(); thread++) {
        size_t all = block_->products[thread / WARP / WARPGROUP].size();
        if (block_->threads[thread].products == all) continue;
        here.thread = block_->threads[thread].index;
        problem_ = place() + "it asked for fewer products than the other warps of its warpgroup";
        return;
    }
}

}  // namespace emulator
