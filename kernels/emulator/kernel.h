// From a kernel's C++ signature to one that takes `void**`: build.rs lists each file's kernels with `KERNEL`.
#pragma once

#include <cstddef>
#include <utility>

namespace emulator {

/// A kernel by name. Each file's list ends with a null name.
struct Kernel {
    const char* name;
    void (*entry)(void* const* arguments);
    /// The most threads a block may have.
    unsigned most_threads;
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

#define KERNEL(name, most_threads) {#name, emulator::entry<&name>, most_threads}
