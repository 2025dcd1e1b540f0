// The scheduler: which fiber runs next, what barriers and collectives wait for, when asynchronous copies happen.

#include "multiprocessor.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <exception>
#include <map>
#include <numeric>

namespace emulator {

thread_local Position here{};

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
// What a GPU fetches at once.
constexpr size_t FETCHED_LINE = 128;
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
    size_t threads = count(launch.block), places = launch.is_cooperative ? count(launch.grid) : 1;
    if (!stacks_.reserve(places * threads)) return "the host has no memory for the stacks of a block";
    while (blocks_.size() < places) blocks_.push_back(std::make_unique<Block>());
    for (size_t place = 0; place < places; place++) {
        blocks_[place]->first_stack = place * threads;
        blocks_[place]->threads.resize(threads);
        place_shared(*blocks_[place]);
    }
    fetched_.clear();
    fetched_from_ = nullptr;
    fetched_bytes_ = 0;
    here.block_size = launch.block;
    here.grid_size = launch.grid;
    allocations_.refresh();
    if (DETECTS_RACES) races_.start_launch();
    traffic_.start_launch(DETECTS_RACES ? launch.traffic : nullptr);
    if (launch.is_cooperative) {
        run_together();
    } else {
        run_in_turn();
    }
    if (problem_.empty()) check_fetched();
    launch_ = nullptr;
    return problem_;
}

void Multiprocessor::run_in_turn() {
    block_ = blocks_[0].get();
    for (uint64_t index : block_order()) {
        start_block(position(index, launch_->grid));
        go_on();
        if (problem_.empty()) finish_block();
        if (!problem_.empty()) return;
    }
}

/// All blocks are there at once; one runs until it waits for another.
void Multiprocessor::run_together() {
    std::vector<Block*> unfinished;
    for (uint64_t index : block_order()) {
        block_ = blocks_[unfinished.size()].get();
        unfinished.push_back(block_);
        start_block(position(index, launch_->grid));
    }
    while (!unfinished.empty() && problem_.empty()) {
        std::vector<size_t> able;
        for (size_t i = 0; i < unfinished.size(); i++) {
            if (can_go_on(*unfinished[i])) able.push_back(i);
        }
        bool is_drawn = launch_->schedule.order == Order::Random && !able.empty();
        size_t next = able.empty() ? 0 : able[is_drawn ? random() % able.size() : 0];
        enter_block(*unfinished[next]);
        if (able.empty()) {
            here.thread = block_->threads[block_->watches[0].thread].index;
            problem_ = deadlock();
            return;
        }
        go_on();
        if (!problem_.empty() || block_->alive > 0) continue;
        finish_block();
        unfinished.erase(unfinished.begin() + ptrdiff_t(next));
    }
}

/// Lets the block's threads run until all have ended or wait, or one fails.
void Multiprocessor::go_on() {
    switch_fiber(launcher_, next_thread());
}

bool Multiprocessor::can_go_on(const Block& block) {
    return !block.ready.empty() || std::any_of(block.watches.begin(), block.watches.end(), has_changed);
}

/// Makes a block the running one.
void Multiprocessor::enter_block(Block& block) {
    block_ = &block;
    here.block = block.index;
    if (DETECTS_RACES) races_.enter_block(block.races);
    auto still = std::stable_partition(block.watches.begin(), block.watches.end(),
                                       [](const Watch& watch) { return !has_changed(watch); });
    for (auto watch = still; watch != block.watches.end(); watch++) block.ready.push_back(watch->thread);
    block.watches.erase(still, block.watches.end());
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
    if (launch.is_cooperative && count(launch.grid) > MOST_BLOCKS_AT_ONCE) {
        return kernel + " is launched with " + std::to_string(count(launch.grid)) +
               " blocks that are to be there at once, the most are " + std::to_string(MOST_BLOCKS_AT_ONCE);
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
void Multiprocessor::place_shared(Block& block) {
    std::vector<unsigned char>& shared = block.shared;
    open(shared.data(), shared.size());
    shared.resize(SHARED_ALIGNMENT + SHARED_GUARD + launch_->most_shared + MOST_ARRAYS * SHARED_GUARD);
    size_t misaligned = reinterpret_cast<uintptr_t>(shared.data() + SHARED_GUARD) % SHARED_ALIGNMENT;
    block.shared_start = SHARED_GUARD + (misaligned ? SHARED_ALIGNMENT - misaligned : 0);
    block.shared_end = block.shared_start;
    memset(shared.data(), GUARD_BYTE, shared.size());
}

void Multiprocessor::start_block(uint3 index) {
    Block& block = *block_;
    size_t size = block.threads.size();
    unsigned char* shared = block.shared.data();
    // What the block before has used becomes guard again; the rest still is.
    memset(shared + block.shared_start, GUARD_BYTE, block.shared_end - block.shared_start);
    block.shared_end = block.shared_start + launch_->shared_bytes;
    memset(shared + block.shared_start, POISON_BYTE, launch_->shared_bytes);
    close(shared, block.shared_start);
    close(shared + block.shared_end, block.shared.size() - block.shared_end);
    if (DETECTS_RACES) {
        races_.start_block(block.races, shared + block.shared_start, block.shared.size() - block.shared_start, size);
    }
    if (traffic_.counts()) traffic_.start_block();
    here.block = block.index = index;
    block.arrays.clear();
    block.declared = 0;
    block.meetings.clear();
    block.barriers.clear();
    block.warps.assign((size + WARP - 1) / WARP, Warp{});
    block.products.assign((block.warps.size() + WARPGROUP - 1) / WARPGROUP, {});
    block.ready.clear();
    block.watches.clear();
    block.alive = unsigned(size);
    block.at_barrier = 0;
    block.vote = false;
    for (size_t i = 0; i < size; i++) {
        Thread& thread = block.threads[i];
        thread.fiber = stacks_.prepare(block.first_stack + i, enter_thread);
        thread.index = position(i, launch_->block);
        thread.waits_at = "the start";
        thread.waits_from = nullptr;
        thread.ended = false;
        thread.has_waited = false;
        thread.copies.clear();
        thread.groups.clear();
        thread.products = 0;
        thread.product_groups.clear();
        thread.held.clear();
        thread.has_fenced_sums = false;
    }
    wake(0, block.alive, NOBODY);
}

/// Finds what a block may leave behind that it should not.
void Multiprocessor::finish_block() {
    const Block& block = *block_;
    open(block.shared.data(), block.shared.size());
    if (traffic_.counts()) traffic_.finish_block();
    check_products_of_warps();
    if (!problem_.empty()) return;
    auto untouched = [&](size_t from, size_t to) {
        auto is_guard = [](unsigned char byte) { return byte == GUARD_BYTE; };
        return std::all_of(block.shared.begin() + ptrdiff_t(from), block.shared.begin() + ptrdiff_t(to), is_guard);
    };
    size_t dynamic_end = block.shared_start + launch_->shared_bytes;
    bool clean = untouched(block.shared_start - SHARED_GUARD, block.shared_start) &&
                 untouched(dynamic_end, dynamic_end + SHARED_GUARD) &&
                 untouched(block.shared_end, block.shared_end + SHARED_GUARD);
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
    emulator::arrive(self.launcher_);
    try {
        self.launch_->entry(self.launch_->arguments);
    } catch (const std::exception& error) {
        self.fail_at(nullptr, "the emulator failed: %s", error.what());
    }
    Thread& thread = self.block_->threads[self.block_->running];
    if (!thread.has_waited) self.fail_at(nullptr, "the kernel ended without having waited for the launches before it");
    if (!thread.copies.empty()) {
        self.fail_at(thread.copies[0].site, "the kernel ended with asynchronous copies that it never waited for");
    }
    if (!thread.held.empty()) self.fail_at(nullptr, "the kernel ended with products that it never waited for");
    thread.ended = true;
    self.block_->alive--;
    if (self.block_->at_barrier > 0) self.report_deadlock();
    self.resume_next();
    __builtin_unreachable();
}

/// Makes threads ready, those of `first` to `first + count` but one, to run in the order of the schedule.
void Multiprocessor::wake(unsigned first, unsigned count, unsigned except) {
    // The list is taken from its end.
    bool reversed = launch_->schedule.order == Order::Reversed;
    for (unsigned i = 0; i < count; i++) {
        unsigned thread = first + (reversed ? i : count - 1 - i);
        if (thread != except) block_->ready.push_back(thread);
    }
}

/// Takes the next thread from the ready list and makes it the running one.
const Fiber& Multiprocessor::next_thread() {
    std::vector<unsigned>& ready = block_->ready;
    if (launch_->schedule.order == Order::Random) std::swap(ready[random() % ready.size()], ready.back());
    block_->running = ready.back();
    ready.pop_back();
    const Thread& thread = block_->threads[block_->running];
    here.thread = thread.index;
    here.linear = block_->running;
    return thread.fiber;
}

/// Leaves the running thread for one that can run, or for the launcher when all have ended or wait for other blocks.
void Multiprocessor::resume_next() {
    Thread& leaving = block_->threads[block_->running];
    if (block_->ready.empty() && block_->alive > 0) {
        if (block_->watches.empty()) report_deadlock();
        if (traffic_.counts()) traffic_.finish_block();
    }
    switch_fiber(leaving.fiber, block_->ready.empty() ? launcher_ : next_thread(), leaving.ended);
}

void Multiprocessor::wait_at(const char* what) {
    block_->threads[block_->running].waits_at = what;
    block_->threads[block_->running].waits_from = called_from_;
    resume_next();
}

/// Leaves the running thread for one that can run, and stays ready; there must be another.
void Multiprocessor::let_another_run() {
    unsigned leaving = block_->running;
    const Fiber& next = next_thread();
    block_->ready.push_back(leaving);
    switch_fiber(block_->threads[leaving].fiber, next);
}

void Multiprocessor::wait_for_launches_before() { block_->threads[block_->running].has_waited = true; }

void Multiprocessor::fetch_line(const unsigned char* line) {
    called_from_ = CALLER;
    if (allocations_.find(line) == nullptr) fail("a line is to be fetched that does not begin in device memory");
    fetched_.push_back(line);
}

void Multiprocessor::expect_fetched(const void* start, int bytes) {
    called_from_ = CALLER;
    auto from = static_cast<const unsigned char*>(start);
    bool is_first = fetched_from_ == nullptr;
    if (!is_first && (from != fetched_from_ || bytes != fetched_bytes_)) fail("threads are to fetch different lines");
    fetched_from_ = from;
    fetched_bytes_ = bytes;
}

/// Finds lines that were fetched twice or not at all.
void Multiprocessor::check_fetched() {
    std::sort(fetched_.begin(), fetched_.end());
    size_t lines = (size_t(fetched_bytes_) + FETCHED_LINE - 1) / FETCHED_LINE;
    bool is_right = fetched_.size() == lines;
    for (size_t i = 0; is_right && i < lines; i++) is_right = fetched_[i] == fetched_from_ + i * FETCHED_LINE;
    if (!is_right) {
        problem_ = std::string("kernel ") + launch_->name + " does not fetch each line of " +
                   std::to_string(fetched_bytes_) + " bytes once";
    }
}

/// Ends the launch if the running thread is at device memory that launches before may still be at.
void Multiprocessor::check_turn(const void* address, Site site) {
    if (block_->threads[block_->running].has_waited || allocations_.find(address) == nullptr) return;
    fail_at(site, "the kernel touches device memory before it has waited for the launches before it");
}

void Multiprocessor::barrier() {
    called_from_ = CALLER;
    pass_barrier("__syncthreads");
}

bool Multiprocessor::barrier_or(bool yes) {
    called_from_ = CALLER;
    block_->vote |= yes;
    pass_barrier("__syncthreads_or");
    // Nobody can be through the next barrier before all have come here.
    return block_->outcome;
}

void Multiprocessor::pass_barrier(const char* name) {
    if (++block_->at_barrier < block_->threads.size()) {
        if (block_->alive < block_->threads.size()) {
            block_->threads[block_->running].waits_at = name;
            block_->threads[block_->running].waits_from = called_from_;
            report_deadlock();
        }
        wait_at(name);
        return;
    }
    block_->at_barrier = 0;
    block_->outcome = block_->vote;
    block_->vote = false;
    if (DETECTS_RACES) races_.pass_barrier();
    if (traffic_.counts()) traffic_.finish_block();
    wake(0, block_->alive, block_->running);
}

void Multiprocessor::collective(const char* name, unsigned mask, void* mine, Collective perform, Site site) {
    called_from_ = site != nullptr ? site : CALLER;
    unsigned warp = here.linear / WARP, lane = here.lane();
    if (!(mask >> lane & 1)) fail("%s: lane %u calls with mask %08x, which it is not in", name, lane, mask);
    std::vector<Meeting>& meetings = block_->meetings;
    size_t index = 0;
    while (index < meetings.size() && (meetings[index].warp != warp || !(meetings[index].mask & mask))) index++;
    if (index == meetings.size()) meetings.push_back({name, perform, warp, mask, 0, {}});
    Meeting& meeting = meetings[index];
    bool is_same = meeting.name == name || strcmp(meeting.name, name) == 0;
    if (meeting.mask != mask || meeting.perform != perform || !is_same) {
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
    meetings.erase(meetings.begin() + ptrdiff_t(index));
    if (mask == WHOLE_WARP) return wake(warp * WARP, WARP, block_->running);
    for (unsigned other = 0; other < WARP; other++) {
        if (mask >> other & 1 && other != lane) block_->ready.push_back(warp * WARP + other);
    }
}

void Multiprocessor::fence() {
    if (DETECTS_RACES) races_.fence(here.linear);
}

/// What every atomic operation begins with; `from` is where the kernel calls.
void Multiprocessor::begin_atomic(const unsigned* address, Site from) {
    called_from_ = from;
    check_counter(address, "an atomic operation on");
    // What the thread has read before may be outdated by the time it gets here.
    if (launch_->schedule.order == Order::Random && !block_->ready.empty() && random() % 2 == 0) {
        let_another_run();
        called_from_ = from;
    }
    if (DETECTS_RACES) {
        races_.learn(address, here.linear);
        races_.pass_on(address, here.linear);
    }
}

unsigned Multiprocessor::increment(unsigned* address, unsigned most) {
    begin_atomic(address, CALLER);
    unsigned before = *address;
    *address = before >= most ? 0 : before + 1;
    return before;
}

unsigned Multiprocessor::add(unsigned* address, unsigned number) {
    begin_atomic(address, CALLER);
    unsigned before = *address;
    *address = before + number;
    return before;
}

unsigned Multiprocessor::lower(unsigned* address, unsigned number) {
    begin_atomic(address, CALLER);
    unsigned before = *address;
    *address = std::min(before, number);
    return before;
}

unsigned Multiprocessor::counter(const unsigned* address) {
    called_from_ = CALLER;
    check_counter(address, "a look at");
    return *address;
}

void Multiprocessor::wait_for_change(const unsigned* address, unsigned from) {
    called_from_ = CALLER;
    check_counter(address, "a wait for");
    if (!launch_->is_cooperative) fail("a block waits for others in a launch whose blocks need not be there at once");
    while (*address == from) {
        block_->watches.push_back({block_->running, address, from});
        wait_at("a number that another block changes");
    }
    if (DETECTS_RACES) races_.learn(address, here.linear);
}

void Multiprocessor::check_counter(const unsigned* address, const char* what) {
    const Range* allocation = allocations_.find(address);
    if (allocation == nullptr || reinterpret_cast<uintptr_t>(address) % sizeof *address != 0) {
        fail("%s what is no number in device memory", what);
    }
    check_turn(address, called_from_);
}

void Multiprocessor::note_access(const void* address, size_t bytes, bool writes, Site site) {
    // The launcher, too, reads arguments through instrumented code.
    if (launch_ == nullptr) return;
    check_turn(address, site);
    if (traffic_.counts()) count_access(address, bytes, site);
    check_access(address, bytes, writes, site);
}

void Multiprocessor::count_access(const void* address, size_t bytes, Site site) {
    auto at = static_cast<const unsigned char*>(address);
    const std::vector<unsigned char>& shared = block_->shared;
    bool is_shared = at >= shared.data() && at < shared.data() + shared.size();
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

std::string Multiprocessor::deadlock() const {
    std::map<std::string, unsigned> places;
    for (const Thread& thread : block_->threads) {
        std::string from = thread.waits_from != nullptr ? " at " + marked(thread.waits_from) : "";
        places[thread.ended ? "" : thread.waits_at + from]++;
    }
    std::string text = place() + "the block can never go on: ";
    for (const auto& [waits_at, threads] : places) {
        text += &waits_at == &places.begin()->first ? "" : ", ";
        text += std::to_string(threads) + (waits_at.empty() ? " threads have ended" : " wait at " + waits_at);
    }
    return text;
}

void Multiprocessor::report_deadlock() {
    problem_ = deadlock();
    abandon_block();
}

// ---- shared memory and asynchronous copies -------------------------------------------------------------------------

void* Multiprocessor::static_shared(const void* site, size_t bytes) {
    called_from_ = CALLER;
    Block& block = *block_;
    for (const SharedArray& array : block.arrays) {
        if (array.site == site) return block.shared.data() + array.offset;
    }
    size_t offset = block.shared_start + rounded_up(block.shared_end - block.shared_start + SHARED_GUARD, SHARED_GUARD);
    // Guards are the emulator's own: what the block has does not include them.
    block.declared = rounded_up(block.declared, STATIC_ALIGNMENT) + bytes;
    if (block.declared > MOST_STATIC_SHARED || launch_->shared_bytes + block.declared > launch_->most_shared ||
        offset + bytes + SHARED_GUARD > block.shared.size()) {
        fail("it declares too much shared memory: the most are %zu bytes, %zu with what the launch asks for",
             MOST_STATIC_SHARED, size_t(launch_->most_shared));
    }
    block.arrays.push_back({site, offset});
    open(block.shared.data() + offset, bytes);
    memset(block.shared.data() + offset, POISON_BYTE, bytes);
    block.shared_end = offset + bytes;
    return block.shared.data() + offset;
}

void Multiprocessor::check_shared_row(const void* row, size_t bytes, Site site) {
    auto first = static_cast<const unsigned char*>(row);
    const unsigned char* shared = block_->shared.data();
    if (first < shared + block_->shared_start || first + bytes > shared + block_->shared_end) {
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
    const unsigned char* shared = block_->shared.data();
    auto shared_start = shared + block_->shared_start, shared_end = shared + block_->shared_end;
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
    if (source_bytes > 0) check_turn(from, called_from_);
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
    block_->threads[block_->running].copies.push_back(copy);
}

void Multiprocessor::commit_copies() {
    Thread& thread = block_->threads[block_->running];
    thread.groups.push_back(thread.copies.size());
}

void Multiprocessor::wait_copies(size_t pending) {
    Thread& thread = block_->threads[block_->running];
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
