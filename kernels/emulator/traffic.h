// What kernels ask of memory, counted as a GPU would serve it: by requests of a warp.
//
// Lanes are fibers, so the accesses of one request are found one after another. They are those of one instruction (the
// address its announcement returns to) that the lanes of a warp have executed equally often since they last met at a
// barrier or in a collective of the whole warp. What this cannot tell: a compiler may merge, split, hoist or repeat
// loads otherwise than nvcc does.
#pragma once

#include "races.h"

#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <vector>

namespace emulator {

/// The driver in Rust has the same struct.
struct Traffic {
    uint64_t launches;
    uint64_t shared_requests, shared_wavefronts, bank_conflicts;
    uint64_t global_requests, global_bytes, global_sectors;
};

enum class Space : uint32_t { Shared, Global };

class TrafficCounter {
public:
    /// Adds to `total` from now on; null: to nothing.
    void start_launch(Traffic* total);
    void start_block();

    bool counts() const { return total_ != nullptr; }
    void access(Site site, Space space, const void* address, size_t bytes, unsigned thread);

    /// The warp's lanes have met: what they do next belongs to other requests.
    void finish_warp(unsigned warp);
    void finish_block();

private:
    struct Request {
        /// Bytes that each lane asks for, the same for all.
        size_t bytes;
        /// The lanes that take part, as bits, and the address of each.
        uint32_t lanes;
        uintptr_t addresses[32];
    };
    struct Instruction {
        Space space;
        uint32_t executions[32];
        std::vector<Request> requests;
    };
    struct Warp {
        /// By site and space: an asynchronous copy accesses both.
        std::unordered_map<uintptr_t, Instruction> instructions;
        std::vector<Instruction*> unfinished;
    };

    void count_shared(const Request& request);
    void count_global(const Request& request);
    void touch(const Request& request, uint32_t lanes, size_t unit);
    uint64_t most_words_of_a_bank() const;

    Traffic* total_ = nullptr;
    Warp warps_[32];
    /// The different words or sectors that are being counted.
    std::vector<uintptr_t> touched_;
};

}  // namespace emulator
