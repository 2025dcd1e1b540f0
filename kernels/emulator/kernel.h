// From a kernel's C++ signature to one that takes `void**`: the build script lists each file's kernels.
#pragma once

#include <cstddef>
#include <utility>

namespace emulator {

// The least that a block can have among a path's architectures: 64 KB on sm_75, 99 KB on 86, 89 and 120.
#if !defined(CORONET_ARCH) || CORONET_ARCH < 80
constexpr unsigned MOST_SHARED = 64 << 10;
#else
constexpr unsigned MOST_SHARED = 99 << 10;
#endif

// What a block can have on sm_90a, for kernels that run nowhere else.
constexpr unsigned MOST_SHARED_ALONE = 227 << 10;

/// A kernel by name. Each file's list ends with a null name.
struct Kernel {
    const char* name;
    void (*entry)(void* const* arguments);
    /// The most threads a block may have, and the most bytes of shared memory.
    unsigned most_threads, most_shared;
};

template <class... Parameters, size_t... index>
void call_with(void (*kernel)(Parameters...), void* const* arguments, std::index_sequence<index...>) {
    kernel(*static_cast<Parameters*>(arguments[index])...);
}

template <class... Parameters>
void call(void (*kernel)(Parameters...), void* const* arguments) {
    call_with(kernel, arguments, std::index_sequence_for<Parameters...>());
}

template <auto kernel>
void entry(void* const* arguments) {
    call(kernel, arguments);
}

}  // namespace emulator
