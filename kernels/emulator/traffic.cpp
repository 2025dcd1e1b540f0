// How requests are gathered from lanes and counted.

#include "traffic.h"

#include <algorithm>
#include <iterator>

namespace emulator {
namespace {

constexpr size_t BANKS = 32;
constexpr size_t WORD_BYTES = 4;
constexpr size_t SECTOR_BYTES = 32;
constexpr size_t WARP_LANES = 32;

}  // namespace

void TrafficCounter::start_launch(Traffic* total) {
    total_ = total;
    if (total_ != nullptr) total_->launches++;
}

/// A block that failed has left requests behind.
void TrafficCounter::start_block() {
    for (Warp& warp : warps_) {
        warp.instructions.clear();
        warp.unfinished.clear();
    }
}

void TrafficCounter::access(Site site, Space space, const void* address, size_t bytes, unsigned thread) {
    Warp& warp = warps_[thread / WARP_LANES];
    uintptr_t key = reinterpret_cast<uintptr_t>(site) * 2 + uintptr_t(space);
    Instruction& instruction = warp.instructions.try_emplace(key, Instruction{space, {}, {}}).first->second;
    size_t turn = instruction.executions[thread % WARP_LANES]++;
    if (instruction.requests.empty()) warp.unfinished.push_back(&instruction);
    if (turn == instruction.requests.size()) instruction.requests.push_back({bytes, 0, {}});
    Request& request = instruction.requests[turn];
    request.lanes |= 1u << thread % WARP_LANES;
    request.addresses[thread % WARP_LANES] = reinterpret_cast<uintptr_t>(address);
}

void TrafficCounter::finish_warp(unsigned warp) {
    for (Instruction* instruction : warps_[warp].unfinished) {
        for (const Request& request : instruction->requests) {
            instruction->space == Space::Shared ? count_shared(request) : count_global(request);
        }
        instruction->requests.clear();
        std::fill(std::begin(instruction->executions), std::end(instruction->executions), 0u);
    }
    warps_[warp].unfinished.clear();
}

void TrafficCounter::finish_block() {
    for (unsigned warp = 0; warp < std::size(warps_); warp++) finish_warp(warp);
}

/// A wavefront serves 128 bytes at most: a whole warp's words, half a warp's 8 bytes, a quarter warp's 16.
void TrafficCounter::count_shared(const Request& request) {
    size_t lanes = WARP_LANES * WORD_BYTES / std::max(request.bytes, WORD_BYTES);
    uint32_t part = uint32_t((uint64_t(1) << lanes) - 1);
    total_->shared_requests++;
    for (size_t first = 0; first < WARP_LANES; first += lanes) {
        touch(request, request.lanes & part << first, WORD_BYTES);
        if (touched_.empty()) continue;
        uint64_t wavefronts = most_words_of_a_bank();
        total_->shared_wavefronts += wavefronts;
        total_->bank_conflicts += wavefronts - 1;
    }
}

void TrafficCounter::count_global(const Request& request) {
    touch(request, request.lanes, SECTOR_BYTES);
    total_->global_requests++;
    total_->global_bytes += uint64_t(__builtin_popcount(request.lanes)) * request.bytes;
    total_->global_sectors += touched_.size();
}

/// Lists the different units of memory that some of a request's lanes touch.
void TrafficCounter::touch(const Request& request, uint32_t lanes, size_t unit) {
    touched_.clear();
    for (size_t lane = 0; lane < WARP_LANES; lane++) {
        if (!(lanes >> lane & 1)) continue;
        uintptr_t address = request.addresses[lane], last = (address + request.bytes - 1) / unit;
        for (uintptr_t at = address / unit; at <= last; at++) touched_.push_back(at);
    }
    std::sort(touched_.begin(), touched_.end());
    touched_.erase(std::unique(touched_.begin(), touched_.end()), touched_.end());
}

/// Lanes that want the same word get it together; different words of a bank come one after another.
uint64_t TrafficCounter::most_words_of_a_bank() const {
    uint64_t words[BANKS] = {};
    for (uintptr_t word : touched_) words[word % BANKS]++;
    return *std::max_element(std::begin(words), std::end(words));
}

}  // namespace emulator
