// The scheduler: which fiber runs next, what barriers and collectives wait for, when asynchronous copies happen.

#include "multiprocessor.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <exception>
#include <map>
#include <numeric>

// Where the kernel has called the function that this stands in.
#ifdef CORONET_CHECKED
#define CALLER __builtin_return_address(0)
#else
#define CALLER nullptr
#endif

namespace emulator {

thread_local Position here;

namespace {

// What may be declared rather than asked for at launch.
constexpr size_t MOST_STATIC_SHARED = 48 << 10;
// Shared memory starts at such a multiple on a GPU; swizzled layouts rely on it.
constexpr size_t SHARED_ALIGNMENT = 1024;
// Bytes around shared memory and between its arrays that nobody may write.
constexpr size_t SHARED_GUARD = 64;
// There are guards for so many arrays.
constexpr size_t MOST_ARRAYS = 64;
// An array starts at such a multiple.
constexpr size_t STATIC_ALIGNMENT = 16;
constexpr unsigned char GUARD_BYTE = 0xa5;
// Every float and half of this byte is NaN.
constexpr unsigned char POISON_BYTE = 0xff;
constexpr unsigned WHOLE_WARP = ~0u;
constexpr unsigned NOBODY = ~0u;

size_t rounded_up(size_t bytes, size_t multiple) { return (bytes + multiple - 1) / multiple * multiple; }

uint64_t count(dim3 size) { return uint64_t(size.x) * size.y * size.z; }

uint3 position(uint64_t index, dim3 size) {
    return {unsigned(index % size.x), unsigned(index / size.x % size.y), unsigned(index / size.x / size.y)};
}

}  // namespace

Multiprocessor& Multiprocessor::current() {
    thread_local Multiprocessor mine;
    return mine;
}

// ---- a launch ------------------------------------------------------------------------------------------------------

std::string Multiprocessor::run(const Launch& launch) {
    problem_ = check(launch);
    if (!problem_.empty()) return problem_;
    launch_ = &launch;
    launcher_ = Fiber{};
    random_state_ = launch.schedule.seed;
    threads_.resize(count(launch.block));
    if (!stacks_.reserve(threads_.size())) return "the host has no memory for the stacks of a block";
    place_shared();
    here.block_size = launch.block;
    here.grid_size = launch.grid;
    allocations_.refresh();
    if (DETECTS_RACES) races_.start_launch();
    traffic_.start_launch(DETECTS_RACES ? launch.traffic : nullptr);
    for (uint64_t block : block_order()) {
        here.block = position(block, launch.grid);
        start_block();
        // The block's last thread, or the first that fails, comes back here.
        switch_fiber(launcher_, next_thread());
        if (problem_.empty()) finish_block();
        if (!problem_.empty()) break;
    }
    launch_ = nullptr;
    return problem_;
}

std::string Multiprocessor::check(const Launch& launch) const {
    std::string kernel = std::string("kernel ") + launch.name;
    if (count(launch.grid) == 0 || count(launch.block) == 0) return kernel + " is launched without threads";
    if (count(launch.block) > launch.most_threads) {
        return kernel + " is launched with " + std::to_string(count(launch.block)) + " threads a block, the most are " +
               std::to_string(launch.most_threads);
    }
    if (launch.grid.y > 65535 || launch.grid.z > 65535) {
        return kernel + " is launched with more than 65535 blocks in y or z";
    }
    if (launch.shared_bytes > launch.most_shared) {
        return kernel + " asks for " + std::to_string(launch.shared_bytes) + " bytes of shared memory, the most are " +
               std::to_string(launch.most_shared);
    }
    return "";
}

std::vector<uint64_t> Multiprocessor::block_order() {
    std::vector<uint64_t> order(count(launch_->grid));
    std::iota(order.begin(), order.end(), uint64_t(0));
    if (launch_->schedule.order == Order::Reversed) std::reverse(order.begin(), order.end());
    if (launch_->schedule.order == Order::Random) {
        for (size_t left = order.size(); left > 1; left--) std::swap(order[left - 1], order[random() % left]);
    }
    return order;
}

/// Makes shared memory for a launch, aligned, all of it guard.
void Multiprocessor::place_shared() {
    shared_.resize(SHARED_ALIGNMENT + SHARED_GUARD + launch_->most_shared + MOST_ARRAYS * SHARED_GUARD);
    size_t misaligned = reinterpret_cast<uintptr_t>(shared_.data() + SHARED_GUARD) % SHARED_ALIGNMENT;
    shared_start_ = SHARED_GUARD + (misaligned ? SHARED_ALIGNMENT - misaligned : 0);
    shared_end_ = shared_start_;
    open(shared_.data(), shared_.size());
    memset(shared_.data(), GUARD_BYTE, shared_.size());
}

void Multiprocessor::start_block() {
    size_t size = threads_.size();
    // What the block before has used becomes guard again; the rest still is.
    memset(shared_.data() + shared_start_, GUARD_BYTE, shared_end_ - shared_start_);
    shared_end_ = shared_start_ + launch_->shared_bytes;
    memset(shared_.data() + shared_start_, POISON_BYTE, launch_->shared_bytes);
    close(shared_.data(), shared_start_);
    close(shared_.data() + shared_end_, shared_.size() - shared_end_);
    if (DETECTS_RACES) races_.start_block(shared_.data() + shared_start_, shared_.size() - shared_start_);
    if (traffic_.counts()) traffic_.start_block();
    arrays_.clear();
    declared_ = 0;
    meetings_.clear();
    ready_.clear();
    alive_ = unsigned(size);
    at_barrier_ = 0;
    vote_ = false;
    for (size_t i = 0; i < size; i++) {
        Thread& thread = threads_[i];
        thread.fiber = stacks_.prepare(i, enter_thread);
        thread.index = position(i, launch_->block);
        thread.waits_at = "the start";
        thread.waits_from = nullptr;
        thread.ended = false;
        thread.copies.clear();
        thread.groups.clear();
    }
    wake(0, alive_, NOBODY);
}

/// Finds what a block may leave behind that it should not.
void Multiprocessor::finish_block() {
    open(shared_.data(), shared_.size());
    if (traffic_.counts()) traffic_.finish_block();
    auto untouched = [&](size_t from, size_t to) {
        auto is_guard = [](unsigned char byte) { return byte == GUARD_BYTE; };
        return std::all_of(shared_.begin() + ptrdiff_t(from), shared_.begin() + ptrdiff_t(to), is_guard);
    };
    size_t dynamic_end = shared_start_ + launch_->shared_bytes;
    bool clean = untouched(shared_start_ - SHARED_GUARD, shared_start_) &&
                 untouched(dynamic_end, dynamic_end + SHARED_GUARD) &&
                 untouched(shared_end_, shared_end_ + SHARED_GUARD);
    if (!clean) {
        problem_ = std::string("kernel ") + launch_->name + " wrote outside its shared memory in block (" +
                   std::to_string(here.block.x) + ", " + std::to_string(here.block.y) + ", " +
                   std::to_string(here.block.z) + ")";
    }
}

// ---- threads -------------------------------------------------------------------------------------------------------

/// Where every fiber starts; it never returns.
void Multiprocessor::enter_thread() {
    Multiprocessor& self = current();
    arrive(self.launcher_);
    try {
        self.launch_->entry(self.launch_->arguments);
    } catch (const std::exception& error) {
        self.fail_at(nullptr, "the emulator failed: %s", error.what());
    }
    Thread& thread = self.threads_[self.running_];
    if (!thread.copies.empty()) {
        self.fail_at(thread.copies[0].site, "the kernel ended with asynchronous copies that it never waited for");
    }
    thread.ended = true;
    self.alive_--;
    if (self.at_barrier_ > 0) self.report_deadlock();
    self.resume_next();
    __builtin_unreachable();
}

/// Makes threads ready, those of `first` to `first + count` but one, to run in the order of the schedule.
void Multiprocessor::wake(unsigned first, unsigned count, unsigned except) {
    // The list is taken from its end.
    bool reversed = launch_->schedule.order == Order::Reversed;
    for (unsigned i = 0; i < count; i++) {
        unsigned thread = first + (reversed ? i : count - 1 - i);
        if (thread != except) ready_.push_back(thread);
    }
}

/// Takes the next thread from the ready list and makes it the running one.
const Fiber& Multiprocessor::next_thread() {
    if (launch_->schedule.order == Order::Random) std::swap(ready_[random() % ready_.size()], ready_.back());
    running_ = ready_.back();
    ready_.pop_back();
    here.thread = threads_[running_].index;
    here.linear = running_;
    return threads_[running_].fiber;
}

/// Leaves the running thread for one that can run, or for the launcher when all have ended.
void Multiprocessor::resume_next() {
    Thread& leaving = threads_[running_];
    if (ready_.empty() && alive_ > 0) report_deadlock();
    switch_fiber(leaving.fiber, ready_.empty() ? launcher_ : next_thread(), leaving.ended);
}

void Multiprocessor::wait_at(const char* what) {
    threads_[running_].waits_at = what;
    threads_[running_].waits_from = called_from_;
    resume_next();
}

void Multiprocessor::barrier() {
    called_from_ = CALLER;
    pass_barrier("__syncthreads");
}

bool Multiprocessor::barrier_or(bool yes) {
    called_from_ = CALLER;
    vote_ |= yes;
    pass_barrier("__syncthreads_or");
    // Nobody can be through the next barrier before all have come here.
    return outcome_;
}

void Multiprocessor::pass_barrier(const char* name) {
    if (++at_barrier_ < threads_.size()) {
        if (alive_ < threads_.size()) {
            threads_[running_].waits_at = name;
            threads_[running_].waits_from = called_from_;
            report_deadlock();
        }
        wait_at(name);
        return;
    }
    at_barrier_ = 0;
    outcome_ = vote_;
    vote_ = false;
    if (DETECTS_RACES) races_.pass_barrier();
    if (traffic_.counts()) traffic_.finish_block();
    wake(0, alive_, running_);
}

void Multiprocessor::collective(const char* name, unsigned mask, void* mine, Collective perform, Site site) {
    called_from_ = site != nullptr ? site : CALLER;
    unsigned warp = here.linear / WARP, lane = here.lane();
    if (!(mask >> lane & 1)) fail("%s: lane %u calls with mask %08x, which it is not in", name, lane, mask);
    size_t index = 0;
    while (index < meetings_.size() && (meetings_[index].warp != warp || !(meetings_[index].mask & mask))) index++;
    if (index == meetings_.size()) meetings_.push_back({name, perform, warp, mask, 0, {}});
    Meeting& meeting = meetings_[index];
    if (meeting.mask != mask || meeting.perform != perform || strcmp(meeting.name, name) != 0) {
        fail("lane %u is at %s with mask %08x while others of its warp wait at %s with mask %08x", lane, name, mask,
             meeting.name, meeting.mask);
    }
    meeting.lanes[lane] = mine;
    meeting.arrived |= 1u << lane;
    if (meeting.arrived != mask) {
        wait_at(name);
        return;
    }
    if (perform != nullptr) {
        perform(meeting.lanes, mask);
    } else if (DETECTS_RACES && mask == WHOLE_WARP) {
        races_.pass_warp_barrier(warp);
    }
    if (traffic_.counts() && mask == WHOLE_WARP) traffic_.finish_warp(warp);
    meetings_.erase(meetings_.begin() + ptrdiff_t(index));
    if (mask == WHOLE_WARP) return wake(warp * WARP, WARP, running_);
    for (unsigned other = 0; other < WARP; other++) {
        if (mask >> other & 1 && other != lane) ready_.push_back(warp * WARP + other);
    }
}

void Multiprocessor::fence() {
    if (DETECTS_RACES) races_.fence(here.linear);
}

unsigned Multiprocessor::increment(unsigned* address, unsigned most) {
    called_from_ = CALLER;
    const Range* allocation = allocations_.find(address);
    if (allocation == nullptr || reinterpret_cast<uintptr_t>(address) % sizeof *address != 0) {
        fail("an atomic operation on what is no number in device memory");
    }
    if (DETECTS_RACES) races_.meet(address, here.linear);
    unsigned before = *address;
    *address = before >= most ? 0 : before + 1;
    return before;
}

void Multiprocessor::note_access(const void* address, size_t bytes, bool writes, Site site) {
    // The launcher, too, reads arguments through instrumented code.
    if (launch_ == nullptr) return;
    if (traffic_.counts()) count_access(address, bytes, site);
    check_access(address, bytes, writes, site);
}

void Multiprocessor::count_access(const void* address, size_t bytes, Site site) {
    auto at = static_cast<const unsigned char*>(address);
    bool is_shared = at >= shared_.data() && at < shared_.data() + shared_.size();
    // What remains is the thread's own: its stack, its arguments.
    if (bytes == 0 || (!is_shared && allocations_.find(address) == nullptr)) return;
    traffic_.access(site, is_shared ? Space::Shared : Space::Global, address, bytes, here.linear);
}

void Multiprocessor::check_access(const void* address, size_t bytes, bool writes, Site site) {
    size_t length = 0;
    {
        std::string problem = races_.access(address, bytes, writes, here.linear, site, allocations_);
        length = problem.copy(race_, sizeof race_ - 1);
    }
    race_[length] = 0;
    if (length > 0) fail_at(site, "%s", race_);
}

// ---- what goes wrong -----------------------------------------------------------------------------------------------

void Multiprocessor::fail(const char* format, ...) {
    va_list values;
    va_start(values, format);
    stop(called_from_, format, values);
}

void Multiprocessor::fail_at(Site site, const char* format, ...) {
    va_list values;
    va_start(values, format);
    stop(site, format, values);
}

void Multiprocessor::stop(Site site, const char* format, va_list values) {
    char text[400];
    vsnprintf(text, sizeof text, format, values);
    problem_ = place();
    if (site != nullptr) problem_ += marked(site) + ": ";
    problem_ += text;
    abandon_block();
}

/// The block's other threads are never entered again; the next block starts on fresh stacks. Whatever frames are left
/// behind must hold nothing that has to be given back.
void Multiprocessor::abandon_block() {
    Fiber forgotten;
    switch_fiber(forgotten, launcher_, true);
    __builtin_unreachable();
}

std::string Multiprocessor::place() const {
    char text[200];
    snprintf(text, sizeof text, "kernel %s, block (%u, %u, %u), thread (%u, %u, %u): ", launch_->name, here.block.x,
             here.block.y, here.block.z, here.thread.x, here.thread.y, here.thread.z);
    return text;
}

void Multiprocessor::report_deadlock() {
    {
        std::map<std::string, unsigned> places;
        for (const Thread& thread : threads_) {
            std::string from = thread.waits_from != nullptr ? " at " + marked(thread.waits_from) : "";
            places[thread.ended ? "" : thread.waits_at + from]++;
        }
        problem_ = place() + "the block can never go on: ";
        for (const auto& [waits_at, threads] : places) {
            problem_ += &waits_at == &places.begin()->first ? "" : ", ";
            problem_ += std::to_string(threads) + (waits_at.empty() ? " threads have ended" : " wait at " + waits_at);
        }
    }
    abandon_block();
}

// ---- shared memory and asynchronous copies -------------------------------------------------------------------------

void* Multiprocessor::static_shared(const void* site, size_t bytes) {
    called_from_ = CALLER;
    for (const SharedArray& array : arrays_) {
        if (array.site == site) return shared_.data() + array.offset;
    }
    size_t offset = shared_start_ + rounded_up(shared_end_ - shared_start_ + SHARED_GUARD, SHARED_GUARD);
    // Guards are the emulator's own: what the block has does not include them.
    declared_ = rounded_up(declared_, STATIC_ALIGNMENT) + bytes;
    if (declared_ > MOST_STATIC_SHARED || launch_->shared_bytes + declared_ > launch_->most_shared ||
        offset + bytes + SHARED_GUARD > shared_.size()) {
        fail("it declares too much shared memory: the most are %zu bytes, %zu with what the launch asks for",
             MOST_STATIC_SHARED, size_t(launch_->most_shared));
    }
    arrays_.push_back({site, offset});
    open(shared_.data() + offset, bytes);
    memset(shared_.data() + offset, POISON_BYTE, bytes);
    shared_end_ = offset + bytes;
    return shared_.data() + offset;
}

void Multiprocessor::check_shared_row(const void* row, size_t bytes, Site site) {
    auto first = static_cast<const unsigned char*>(row);
    if (first < shared_.data() + shared_start_ || first + bytes > shared_.data() + shared_end_) {
        fail_at(site, "a matrix is loaded from outside the block's shared memory");
    }
    if (reinterpret_cast<uintptr_t>(row) % bytes != 0) {
        fail_at(site, "a matrix's row is not aligned to its %zu bytes", bytes);
    }
    if (DETECTS_RACES) note_access(row, bytes, false, site);
}

void Multiprocessor::copy_async(void* to, const void* from, unsigned bytes, unsigned source_bytes) {
    called_from_ = CALLER;
    auto target = static_cast<unsigned char*>(to);
    auto shared_end = shared_.data() + shared_end_, shared_start = shared_.data() + shared_start_;
    if ((reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from)) % bytes != 0) {
        fail("an asynchronous copy of %u bytes is not aligned to its size", bytes);
    }
    if (target < shared_start || target + bytes > shared_end) {
        fail("an asynchronous copy writes outside the block's shared memory");
    }
    const Range* source = source_bytes > 0 ? allocations_.find(from) : nullptr;
    size_t left = source != nullptr ? source->end - reinterpret_cast<uintptr_t>(from) : 0;
    if (left < source_bytes) {
        fail("an asynchronous copy reads %u bytes where %zu are left of the allocation", source_bytes, left);
    }
    Copies when = launch_->schedule.copies;
    Copy copy{to, from, bytes, source_bytes, called_from_, false};
    if (DETECTS_RACES) {
        note_access(to, bytes, true, copy.site);
        note_access(from, source_bytes, false, copy.site);
    }
    if (when == Copies::AtOnce || (when == Copies::Random && random() % 2 == 0)) {
        perform(copy);
        copy.is_done = true;
    } else {
        memset(to, POISON_BYTE, bytes);
    }
    threads_[running_].copies.push_back(copy);
}

void Multiprocessor::commit_copies() {
    Thread& thread = threads_[running_];
    thread.groups.push_back(thread.copies.size());
}

void Multiprocessor::wait_copies(size_t pending) {
    Thread& thread = threads_[running_];
    if (thread.groups.size() <= pending) return;
    size_t finished = thread.groups.size() - pending;
    size_t end = thread.groups[finished - 1];
    for (size_t i = 0; i < end; i++) perform(thread.copies[i]);
    thread.copies.erase(thread.copies.begin(), thread.copies.begin() + ptrdiff_t(end));
    thread.groups.erase(thread.groups.begin(), thread.groups.begin() + ptrdiff_t(finished));
    for (size_t& group : thread.groups) group -= end;
}

void Multiprocessor::perform(const Copy& copy) {
    // From the wait on the copy counts as the thread's own; before, it may happen at any time.
    if (DETECTS_RACES) check_access(copy.to, copy.bytes, true, copy.site);
    if (copy.is_done) return;
    auto target = static_cast<unsigned char*>(copy.to);
    if (copy.source_bytes > 0) memcpy(target, copy.from, copy.source_bytes);
    memset(target + copy.source_bytes, 0, copy.bytes - copy.source_bytes);
}

/// SplitMix64 (Steele, Lea, Flood 2014).
uint64_t Multiprocessor::random() {
    uint64_t z = random_state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

}  // namespace emulator
