// Fibers: stacks of their own, one for each CUDA thread, left and entered by hand because the operating system's
// ways (ucontext, threads) cost 20 to 100 times as much at every barrier.
#pragma once

#include <cstddef>
#include <vector>

#ifdef CORONET_ADDRESS
#include <sanitizer/common_interface_defs.h>
#endif

namespace emulator {

/// Leaves the running fiber and enters another one. The switch saves what the calling convention makes a callee keep;
/// the two assembly files hold one for each processor.
///
/// @param leave  receives the stack pointer to come back to
/// @param enter  a stack pointer from an earlier switch, or from `Stacks::prepare`
extern "C" void coronet_switch_fiber(void** leave, void* enter);

/// A stack that can be entered, as `Stacks::prepare` or the last switch away from it has left it.
struct Fiber {
    void* stack_pointer = nullptr;
#ifdef CORONET_ADDRESS
    const void* bottom = nullptr;
    size_t bytes = 0;
    /// Frames that AddressSanitizer keeps outside the stack, while another fiber runs.
    void* frames = nullptr;
#endif
};

/// Leaves one fiber for another, never itself; `for_good` if nobody will come back.
inline void switch_fiber(Fiber& leave, const Fiber& enter, [[maybe_unused]] bool for_good = false) {
#ifdef CORONET_ADDRESS
    __sanitizer_start_switch_fiber(for_good ? nullptr : &leave.frames, enter.bottom, enter.bytes);
#endif
    coronet_switch_fiber(&leave.stack_pointer, enter.stack_pointer);
#ifdef CORONET_ADDRESS
    __sanitizer_finish_switch_fiber(leave.frames, nullptr, nullptr);
#endif
}

/// What a fiber does first that has never run. The first of all learns where the stack lies that it was entered from.
inline void arrive([[maybe_unused]] Fiber& launcher) {
#ifdef CORONET_ADDRESS
    bool is_first = launcher.bytes == 0;
    __sanitizer_finish_switch_fiber(nullptr, is_first ? &launcher.bottom : nullptr, is_first ? &launcher.bytes : nullptr);
#endif
}

/// Stacks, kept from launch to launch, each with a page below it that may not be touched.
class Stacks {
public:
    Stacks() = default;
    Stacks(const Stacks&) = delete;
    Stacks& operator=(const Stacks&) = delete;
    ~Stacks();

    /// Makes `count` stacks available; false when the memory cannot be had.
    bool reserve(size_t count);

    /// A fiber that enters `entry` on stack `index`. `entry` must never return.
    Fiber prepare(size_t index, void (*entry)());

private:
    std::vector<unsigned char*> mappings_;
};

}  // namespace emulator
