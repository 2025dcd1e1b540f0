// Where fibers' stacks come from, and what a stack holds before its fiber has ever run.

#include "fiber.h"

#include <cstdint>
#include <cstring>
#include <sys/mman.h>

#ifdef CORONET_ADDRESS
#include <sanitizer/asan_interface.h>
#endif

namespace emulator {
namespace {

// Kernels keep tiles in local arrays, but no kernel needs more than a few KB; pages are only made when touched.
constexpr size_t STACK_BYTES = 128 << 10;
// The largest page size in use on either processor.
constexpr size_t GUARD_BYTES = 64 << 10;

// What `coronet_switch_fiber` takes from a stack, in words, and which of them is the address it returns to.
#if defined(__x86_64__)
constexpr size_t SAVED_WORDS = 8;
constexpr size_t RETURN_WORD = 6;
#elif defined(__aarch64__)
constexpr size_t SAVED_WORDS = 20;
constexpr size_t RETURN_WORD = 11;
#else
#error "the emulator has no stack switch for this processor: build without the feature `emulator`"
#endif

}  // namespace

Stacks::~Stacks() {
    for (unsigned char* mapping : mappings_) munmap(mapping, GUARD_BYTES + STACK_BYTES);
}

bool Stacks::reserve(size_t count) {
    while (mappings_.size() < count) {
        void* mapping = mmap(nullptr, GUARD_BYTES + STACK_BYTES, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (mapping == MAP_FAILED) return false;
        mprotect(mapping, GUARD_BYTES, PROT_NONE);
        mappings_.push_back(static_cast<unsigned char*>(mapping));
    }
    return true;
}

Fiber Stacks::prepare(size_t index, void (*entry)()) {
    unsigned char* bottom = mappings_[index] + GUARD_BYTES;
    Fiber fiber;
#ifdef CORONET_ADDRESS
    // The frames of a fiber that was abandoned are still marked.
    __asan_unpoison_memory_region(bottom, STACK_BYTES);
    fiber.bottom = bottom;
    fiber.bytes = STACK_BYTES;
#endif
    auto* top = reinterpret_cast<uintptr_t*>(bottom + STACK_BYTES);
    uintptr_t* saved = top - SAVED_WORDS;
    memset(saved, 0, SAVED_WORDS * sizeof(uintptr_t));
    saved[RETURN_WORD] = reinterpret_cast<uintptr_t>(entry);
    fiber.stack_pointer = saved;
    return fiber;
}

}  // namespace emulator
