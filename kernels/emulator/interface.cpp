// What the emulated driver in Rust calls. Nothing here throws or aborts: what goes wrong comes back as a sentence.

#include "kernel.h"
#include "memory.h"
#include "multiprocessor.h"

#include <cstdio>
#include <exception>

extern "C" {

/// Sizes are x, y, z; `traffic` may be null. Returns 0, or 1 with a sentence in `problem`.
int coronet_emulator_launch(const emulator::Kernel* kernel, const unsigned* grid, const unsigned* block,
                            size_t shared_bytes, int is_cooperative, void* const* arguments,
                            const emulator::Schedule* schedule, emulator::Traffic* traffic, char* problem,
                            size_t capacity) {
    try {
        emulator::Launch launch{kernel->name,
                                kernel->entry,
                                kernel->most_threads,
                                kernel->most_shared,
                                arguments,
                                {grid[0], grid[1], grid[2]},
                                {block[0], block[1], block[2]},
                                shared_bytes,
                                is_cooperative != 0,
                                *schedule,
                                traffic};
        std::string sentence = emulator::Multiprocessor::current().run(launch);
        snprintf(problem, capacity, "%s", sentence.c_str());
        return sentence.empty() ? 0 : 1;
    } catch (const std::exception& error) {
        snprintf(problem, capacity, "kernel %s: the emulator failed: %s", kernel->name, error.what());
        return 1;
    }
}

void* coronet_emulator_allocate(size_t bytes) {
    try {
        return emulator::allocate(bytes);
    } catch (const std::exception&) {
        return nullptr;
    }
}

void coronet_emulator_release(void* memory) { emulator::release(memory); }

void coronet_emulator_close(const void* memory, size_t bytes) { emulator::close(memory, bytes); }
void coronet_emulator_open(const void* memory, size_t bytes) { emulator::open(memory, bytes); }

#ifdef CORONET_ADDRESS
/// AddressSanitizer's. What the process leaves to its end is no concern of kernels.
__attribute__((visibility("default"))) const char* __asan_default_options() { return "detect_leaks=0"; }
#endif

}  // extern "C"
