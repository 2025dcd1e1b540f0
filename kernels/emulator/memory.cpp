// The allocations that are alive, by where they begin.

#include "memory.h"

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

namespace emulator {
namespace {

constexpr size_t ALIGNMENT = 256;

struct Allocations {
    std::mutex mutex;
    std::map<uintptr_t, size_t> bytes;
};

Allocations& allocations() {
    static Allocations all;
    return all;
}

}  // namespace

void* allocate(size_t bytes) {
    size_t rounded = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    void* memory = rounded < bytes ? nullptr : std::aligned_alloc(ALIGNMENT, rounded ? rounded : ALIGNMENT);
    if (memory == nullptr) return nullptr;
    memset(memory, 0xff, bytes);
    Allocations& all = allocations();
    std::lock_guard<std::mutex> lock(all.mutex);
    all.bytes[reinterpret_cast<uintptr_t>(memory)] = bytes;
    return memory;
}

void release(void* memory) {
    Allocations& all = allocations();
    {
        std::lock_guard<std::mutex> lock(all.mutex);
        all.bytes.erase(reinterpret_cast<uintptr_t>(memory));
    }
    std::free(memory);
}

size_t bytes_left(const void* address) {
    Allocations& all = allocations();
    std::lock_guard<std::mutex> lock(all.mutex);
    auto at = reinterpret_cast<uintptr_t>(address);
    auto after = all.bytes.upper_bound(at);
    if (after == all.bytes.begin()) return 0;
    auto [begin, bytes] = *std::prev(after);
    return at - begin < bytes ? begin + bytes - at : 0;
}

}  // namespace emulator
