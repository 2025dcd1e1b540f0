// The allocations that are alive, by where they begin.

#include "memory.h"

#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

#ifdef CORONET_ADDRESS
#include <sanitizer/asan_interface.h>
#endif

namespace emulator {
namespace {

constexpr size_t ALIGNMENT = 256;

struct Registry {
    std::mutex mutex;
    std::map<uintptr_t, size_t> bytes;
};

Registry& registry() {
    static Registry all;
    return all;
}

}  // namespace

void* allocate(size_t bytes) {
    size_t rounded = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    void* memory = rounded < bytes ? nullptr : std::aligned_alloc(ALIGNMENT, rounded ? rounded : ALIGNMENT);
    if (memory == nullptr) return nullptr;
    memset(memory, 0xff, bytes);
    close(static_cast<unsigned char*>(memory) + bytes, rounded - bytes);
    std::lock_guard<std::mutex> lock(registry().mutex);
    registry().bytes[reinterpret_cast<uintptr_t>(memory)] = bytes;
    return memory;
}

#ifdef CORONET_ADDRESS
void close(const void* memory, size_t bytes) { __asan_poison_memory_region(memory, bytes); }
void open(const void* memory, size_t bytes) { __asan_unpoison_memory_region(memory, bytes); }
#else
void close(const void*, size_t) {}
void open(const void*, size_t) {}
#endif

void release(void* memory) {
    {
        std::lock_guard<std::mutex> lock(registry().mutex);
        registry().bytes.erase(reinterpret_cast<uintptr_t>(memory));
    }
    std::free(memory);
}

void Allocations::refresh() {
    std::lock_guard<std::mutex> lock(registry().mutex);
    ranges_.clear();
    for (auto [begin, bytes] : registry().bytes) ranges_.push_back({begin, begin + bytes});
    last_ = 0;
}

const Range* Allocations::find(const void* address) {
    auto at = reinterpret_cast<uintptr_t>(address);
    auto holds = [&](const Range& range) { return at >= range.begin && at < range.end; };
    if (last_ < ranges_.size() && holds(ranges_[last_])) return &ranges_[last_];
    for (size_t i = 0; i < ranges_.size(); i++) {
        if (!holds(ranges_[i])) continue;
        last_ = i;
        return &ranges_[i];
    }
    return nullptr;
}

}  // namespace emulator
