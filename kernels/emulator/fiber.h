// Fibers: stacks of their own, one for each CUDA thread, left and entered by hand because the operating system's
// ways (ucontext, threads) cost 20 to 100 times as much at every barrier.
#pragma once

#include <cstddef>
#include <vector>

namespace emulator {

/// Leaves the running fiber and enters another one. The switch saves what the calling convention makes a callee keep;
/// the two assembly files hold one for each processor.
///
/// @param leave  receives the stack pointer to come back to
/// @param enter  a stack pointer from an earlier switch, or from `Stacks::prepare`
extern "C" void coronet_switch_fiber(void** leave, void* enter);

/// Stacks, kept from launch to launch, each with a page below it that may not be touched.
class Stacks {
public:
    Stacks() = default;
    Stacks(const Stacks&) = delete;
    Stacks& operator=(const Stacks&) = delete;
    ~Stacks();

    /// Makes `count` stacks available; false when the memory cannot be had.
    bool reserve(size_t count);

    /// A stack pointer that enters `entry` on stack `index`. `entry` must never return.
    void* prepare(size_t index, void (*entry)());

private:
    std::vector<unsigned char*> mappings_;
};

}  // namespace emulator
