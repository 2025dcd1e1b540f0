// How accesses are compared, and the hooks through which kernels announce them. clang's own run-time library for
// `-fsanitize=thread` is never linked.

#include "races.h"

#include "multiprocessor.h"

#include <algorithm>
#include <cstdio>
#include <cstring>

namespace emulator {

std::string marked(Site site) {
    char text[32];
    snprintf(text, sizeof text, "{%#zx}", reinterpret_cast<size_t>(site));
    return text;
}

void Races::start_launch() {
    launch_start_ = ++clock_;
    blocks_ = 0;
    numbers_.clear();
}

void Races::start_block(Block& block, const unsigned char* shared, size_t shared_bytes, size_t threads) {
    block_ = &block;
    block.start = ++clock_;
    block.number = ++blocks_;
    block.barrier = 0;
    block.known.clear();
    block.syncs.clear();
    block.ticks.assign(threads, 0);
    block.fenced.assign(threads, 0);
    block.clocks.clear();
    block.gathered.clear();
    block.told.clear();
    std::fill(std::begin(block.warp_barriers), std::end(block.warp_barriers), 0u);
    block.shared = reinterpret_cast<uintptr_t>(shared);
    block.shared_cells.resize((shared_bytes + CELL_BYTES - 1) / CELL_BYTES);
}

namespace {

void join(std::vector<uint32_t>& all, const std::vector<uint32_t>& more) {
    all.resize(std::max(all.size(), more.size()));
    for (size_t i = 0; i < more.size(); i++) all[i] = std::max(all[i], more[i]);
}

}  // namespace

/// What the thread knows, and what it has done, which from now on others may know.
std::vector<uint32_t> Races::clock_of(unsigned thread) {
    size_t threads = block_->ticks.size();
    auto first = block_->clocks.begin() + ptrdiff_t(thread * threads);
    std::vector<uint32_t> clock(first, first + ptrdiff_t(threads));
    clock[thread] = ++block_->ticks[thread];
    return clock;
}

void Races::keep_clocks() { block_->clocks.resize(block_->ticks.size() * block_->ticks.size()); }

void Races::pass_warp_barrier(unsigned warp) {
    block_->warp_barriers[warp]++;
    if (block_->clocks.empty()) return;
    size_t threads = block_->ticks.size(), end = std::min<size_t>(32 * (warp + 1), threads);
    std::vector<uint32_t> all;
    for (size_t thread = 32 * warp; thread < end; thread++) join(all, clock_of(unsigned(thread)));
    for (size_t thread = 32 * warp; thread < end; thread++) {
        std::copy(all.begin(), all.end(), block_->clocks.begin() + ptrdiff_t(thread * threads));
    }
}

void Races::arrive(const void* barrier, unsigned thread) {
    join(block_->gathered[reinterpret_cast<uintptr_t>(barrier)], clock_of(thread));
}

void Races::end_phase(const void* barrier) {
    auto address = reinterpret_cast<uintptr_t>(barrier);
    block_->told[address] = block_->gathered[address];
}

void Races::pass_phase(const void* barrier, unsigned thread) {
    auto told = block_->told.find(reinterpret_cast<uintptr_t>(barrier));
    if (told == block_->told.end()) return;
    uint32_t* mine = &block_->clocks[thread * block_->ticks.size()];
    for (size_t i = 0; i < told->second.size(); i++) mine[i] = std::max(mine[i], told->second[i]);
}

void Races::fence_for_tensor_cores(unsigned thread) { block_->fenced[thread] = ++block_->ticks[thread]; }

void Races::fence(unsigned thread) {
    Sync& sync = block_->syncs[thread];
    sync.has_fenced = true;
    sync.fenced_at = block_->barrier;
    for (const Passed& passed : sync.met) {
        // What is known stays: other threads of the block may rely on it before they meet this one.
        std::vector<Known>& known = block_->known[passed.block];
        auto says_as_much = [&](const Known& earlier) {
            return earlier.barrier > passed.barrier || (earlier.barrier == passed.barrier && earlier.by == passed.by);
        };
        if (std::none_of(known.begin(), known.end(), says_as_much)) {
            known.push_back({passed.barrier, passed.by, thread, block_->barrier});
        }
    }
    sync.met.clear();
}

void Races::learn(const void* address, unsigned thread) {
    std::vector<Passed>& met = block_->syncs[thread].met;
    const std::vector<Passed>& passed = numbers_[reinterpret_cast<uintptr_t>(address)];
    met.insert(met.end(), passed.begin(), passed.end());
}

void Races::pass_on(const void* address, unsigned thread) {
    const Sync& sync = block_->syncs[thread];
    if (!sync.has_fenced) return;
    std::vector<Passed>& passed = numbers_[reinterpret_cast<uintptr_t>(address)];
    passed.push_back({block_->number, sync.fenced_at, thread});
    for (const auto& [block, all] : block_->known) {
        for (const Known& known : all) {
            bool is_known = known.to == thread || sync.fenced_at > known.since;
            if (is_known) passed.push_back({block, known.barrier, known.by});
        }
    }
}

std::string Races::access(const void* address, size_t bytes, bool writes, unsigned thread, Site site,
                          Allocations& allocations, bool by_tensor_cores) {
    auto first = reinterpret_cast<uintptr_t>(address);
    bool is_shared = first - block_->shared < block_->shared_cells.size() * CELL_BYTES;
    const Range* allocation = is_shared ? nullptr : allocations.find(address);
    // Stacks and arguments belong to one thread, or are never written.
    if (!is_shared && allocation == nullptr) return "";
    uintptr_t start = is_shared ? block_->shared : allocation->begin;
    Access now{block_->number, block_->barrier, block_->warp_barriers[thread / 32], thread, block_->ticks[thread], site};
    for (uintptr_t at = first / CELL_BYTES * CELL_BYTES; at < first + bytes; at += CELL_BYTES) {
        Cell* cell = is_shared ? &block_->shared_cells[(at - start) / CELL_BYTES] : device_cell(at);
        Finding finding = touch(*cell, now, writes, is_shared, by_tensor_cores);
        if (finding == Finding::None) continue;
        return (writes ? "it writes byte " : "it reads byte ") + std::to_string(at - start) +
               (is_shared ? " of shared memory, " : " of an allocation, ") + described(finding, *cell, now);
    }
    return "";
}

Races::Cell* Races::device_cell(uintptr_t address) {
    uintptr_t page = address / (PAGE_CELLS * CELL_BYTES);
    if (page != last_page_.first) {
        std::unique_ptr<Cell[]>& cells = pages_[page];
        if (cells == nullptr) cells.reset(new Cell[PAGE_CELLS]);
        last_page_ = {page, cells.get()};
    }
    return last_page_.second + address / CELL_BYTES % PAGE_CELLS;
}

bool Races::ordered(const Access& before, const Access& now) const {
    if (before.thread == NOBODY) return true;
    if (before.block != now.block) {
        auto found = block_->known.find(before.block);
        if (found == block_->known.end()) return false;
        return std::any_of(found->second.begin(), found->second.end(), [&](const Known& known) {
            bool is_passed = before.thread == known.by || before.barrier < known.barrier;
            return is_passed && (now.thread == known.to || now.barrier > known.since);
        });
    }
    bool same_warp = before.thread / 32 == now.thread / 32;
    if (before.thread == now.thread || before.barrier != now.barrier) return true;
    if (same_warp && before.warp_barrier != now.warp_barrier) return true;
    const std::vector<uint32_t>& clocks = block_->clocks;
    return !clocks.empty() && clocks[now.thread * block_->ticks.size() + before.thread] > before.tick;
}

/// What the access runs against; where that is nothing the cell remembers it.
Races::Finding Races::touch(Cell& cell, const Access& now, bool writes, bool is_shared, bool by_tensor_cores) {
    if (cell.since < (is_shared ? block_->start : launch_start_)) cell = Cell{};
    cell.since = clock_;
    if (!ordered(cell.writer, now)) return Finding::Writer;
    if (!writes) {
        if (is_shared && cell.writer.thread == NOBODY) return Finding::Unwritten;
        if (by_tensor_cores && cell.writer.tick >= block_->fenced[cell.writer.thread]) return Finding::Unfenced;
        // Two readers are enough to find a third thread's write: one of them is not the writer.
        bool known = cell.readers[0].thread == now.thread && cell.readers[0].block == now.block;
        Access& slot = known || ordered(cell.readers[0], now) ? cell.readers[0] : cell.readers[1];
        slot = now;
        return Finding::None;
    }
    if (!ordered(cell.readers[0], now)) return Finding::FirstReader;
    if (!ordered(cell.readers[1], now)) return Finding::SecondReader;
    cell.writer = now;
    cell.readers[0] = cell.readers[1] = Access{};
    return Finding::None;
}

/// Half a sentence.
std::string Races::described(Finding finding, const Cell& cell, const Access& now) const {
    auto against = [&](const Access& other, const char* did, const char* missing) {
        std::string whose = other.block == now.block ? "" : " of another block";
        return "which thread " + std::to_string(other.thread) + whose + did + " at " + marked(other.site) + missing;
    };
    const char* barrier = ", with no barrier between them";
    switch (finding) {
        case Finding::None: break;
        case Finding::Writer: return against(cell.writer, " writes", barrier);
        case Finding::FirstReader: return against(cell.readers[0], " reads", barrier);
        case Finding::SecondReader: return against(cell.readers[1], " reads", barrier);
        case Finding::Unwritten: return "which nobody has written";
        case Finding::Unfenced: return against(cell.writer, " writes", ", with no fence for tensor cores behind it");
    }
    return "";
}

}  // namespace emulator

#ifdef CORONET_CHECKED

namespace {

using emulator::Site;

void announce(const void* address, size_t bytes, bool writes, Site site) {
    emulator::Multiprocessor::current().note_access(address, bytes, writes, site);
}

void announce_aligned(const void* address, size_t bytes, bool writes, Site site) {
    if (reinterpret_cast<uintptr_t>(address) % std::min(bytes, size_t(8)) != 0) {
        emulator::Multiprocessor::current().fail_at(site, "an access of %zu bytes is not aligned to its size", bytes);
    }
    announce(address, bytes, writes, site);
}

/// A GPU moves what is not known to be aligned, such as structs of numbers, number by number.
void announce_words(const void* address, size_t bytes, bool writes, Site site) {
    auto start = static_cast<const unsigned char*>(address);
    for (size_t at = 0; at < bytes; at += 4) announce(start + at, std::min(bytes - at, size_t(4)), writes, site);
}

}  // namespace

// clang calls the first two where it takes the address to be aligned to the access, up to 8 bytes.
#define HOOK(name, announced, bytes, writes) \
    void __tsan_##name##bytes(void* address) { announced(address, bytes, writes, __builtin_return_address(0)); }
#define HOOKS(bytes)                                   \
    HOOK(read, announce_aligned, bytes, false)         \
    HOOK(write, announce_aligned, bytes, true)         \
    HOOK(unaligned_read, announce_words, bytes, false) \
    HOOK(unaligned_write, announce_words, bytes, true)

extern "C" {

void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_read_range(void* address, unsigned long bytes) {
    announce_words(address, bytes, false, __builtin_return_address(0));
}
void __tsan_write_range(void* address, unsigned long bytes) {
    announce_words(address, bytes, true, __builtin_return_address(0));
}
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)

// What structs are copied and filled with in kernels: the build script gives their memcpy, memmove and memset these names.
void* coronet_checked_memcpy(void* to, const void* from, size_t bytes) {
    announce_words(from, bytes, false, __builtin_return_address(0));
    announce_words(to, bytes, true, __builtin_return_address(0));
    return memcpy(to, from, bytes);
}
void* coronet_checked_memmove(void* to, const void* from, size_t bytes) {
    announce_words(from, bytes, false, __builtin_return_address(0));
    announce_words(to, bytes, true, __builtin_return_address(0));
    return memmove(to, from, bytes);
}
void* coronet_checked_memset(void* to, int byte, size_t bytes) {
    announce_words(to, bytes, true, __builtin_return_address(0));
    return memset(to, byte, bytes);
}

}  // extern "C"

#endif
