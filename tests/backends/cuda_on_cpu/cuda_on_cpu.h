// Runs CUDA C++ kernels on the CPU. Each CUDA thread is a fiber, and all fibers share one OS thread: a fiber runs until
// it waits, and a seed chooses the next one. The first part stands before the kernels' text; the second, compiled alone
// with CUDA_ON_CPU_RUNTIME, is the scheduler, which a sanitizer must not instrument.
#include <math.h>
#include <stdint.h>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __cluster_dims__(...)
#define CUDA_ON_CPU_EXPORT extern "C" __attribute__((visibility("default")))

struct uint3 { unsigned x, y, z; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(16) double2 { double x, y; };

extern uint3 threadIdx, blockIdx, blockDim, gridDim; // of the running fiber

namespace cuda_on_cpu {
struct Copy {
    unsigned char* to;
    const unsigned char* from;
    int bytes, line;
    unsigned group;
};
void block_barrier(int line);
void cluster_barrier(int line);
void grid_barrier(int line);
void warp_barrier(unsigned mask, int line);
uint64_t exchange(unsigned mask, uint64_t bits, int lane_mask, int line);
void queue_copy(const Copy& copy);
void commit_copies();
const Copy* next_copy(unsigned pending);
unsigned char* shared();
unsigned rank();
void* peer_address(void* own, int rank, unsigned bytes, int line);

__forceinline__ void move(unsigned char* to, const unsigned char* from, int bytes) {
    typedef uint32_t __attribute__((may_alias)) Word;
    for (int i = 0; i < bytes; i += 4)
        *reinterpret_cast<Word*>(to + i) = from ? *reinterpret_cast<const Word*>(from + i) : ~0u;
}
} // namespace cuda_on_cpu

// A default argument of __builtin_LINE() is the line of the call.
inline void __syncthreads(int line = __builtin_LINE()) { cuda_on_cpu::block_barrier(line); }
inline void __syncwarp(unsigned mask = ~0u, int line = __builtin_LINE()) { cuda_on_cpu::warp_barrier(mask, line); }
inline void cluster_barrier(int line = __builtin_LINE()) { cuda_on_cpu::cluster_barrier(line); }
inline void grid_barrier(unsigned long long*, int line = __builtin_LINE()) { cuda_on_cpu::grid_barrier(line); }
inline unsigned cluster_rank() { return cuda_on_cpu::rank(); }
inline unsigned char* shared_memory() { return cuda_on_cpu::shared(); }

template <typename T>
__forceinline__ T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int line = __builtin_LINE()) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8);
    uint64_t bits = 0;
    __builtin_memcpy(&bits, &value, sizeof value);
    bits = cuda_on_cpu::exchange(mask, bits, lane_mask, line);
    __builtin_memcpy(&value, &bits, sizeof value); // the low half first, as on every machine in use
    return value;
}

template <int BYTES> __forceinline__ void async_copy(void* to, const void* from, int line = __builtin_LINE()) {
    static_assert(BYTES == 4 || BYTES == 8 || BYTES == 16);
    cuda_on_cpu::queue_copy(
        {static_cast<unsigned char*>(to), static_cast<const unsigned char*>(from), BYTES, line, 0});
    cuda_on_cpu::move(static_cast<unsigned char*>(to), nullptr, BYTES); // lost from now on, filled only at the wait
}
inline void async_commit() { cuda_on_cpu::commit_copies(); }
// The copies are made here, not in the scheduler, so that a sanitizer sees them as the thread's own.
template <int PENDING> __forceinline__ void async_wait() {
    while (const cuda_on_cpu::Copy* copy = cuda_on_cpu::next_copy(PENDING))
        cuda_on_cpu::move(copy->to, copy->from, copy->bytes);
}

template <typename T, typename Value> // a Value which turns into a T
__forceinline__ void peer_store(T* own, int rank, Value value, int line = __builtin_LINE()) {
    *static_cast<T*>(cuda_on_cpu::peer_address(own, rank, sizeof(T), line)) = value;
}

template <typename T> __forceinline__ T __ldcg(const T* address) { return *address; }
template <typename T, typename Value> __forceinline__ void __stcg(T* address, Value value) { *address = value; }
inline unsigned atomicAdd(unsigned* address, unsigned value) {
    return __atomic_fetch_add(address, value, __ATOMIC_RELAXED);
}
inline void __threadfence() { asm volatile("" ::: "memory"); }

inline unsigned __float_as_uint(float value) { return __builtin_bit_cast(unsigned, value); }
inline float __uint_as_float(unsigned value) { return __builtin_bit_cast(float, value); }
inline long long __double_as_longlong(double value) { return __builtin_bit_cast(long long, value); }
inline double __longlong_as_double(long long value) { return __builtin_bit_cast(double, value); }
inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }
inline unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }
inline unsigned max(unsigned a, unsigned b) { return a > b ? a : b; }
inline long long min(long long a, long long b) { return a < b ? a : b; }
inline long long max(long long a, long long b) { return a > b ? a : b; }

#ifdef CUDA_ON_CPU_RUNTIME
#include <memory>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <vector>

#if defined(CUDA_ON_CPU_ADDRESS)
#include <sanitizer/asan_interface.h>
#elif defined(CUDA_ON_CPU_THREAD)
#include <sanitizer/tsan_interface.h>
#else
#define CUDA_ON_CPU_PLAIN
#endif

uint3 threadIdx, blockIdx, blockDim, gridDim;

namespace cuda_on_cpu {
namespace {

#ifdef CUDA_ON_CPU_PLAIN
constexpr size_t STACK = 64 << 10;
#else
constexpr size_t STACK = 512 << 10; // a sanitizer reports on the fiber's stack
#endif
constexpr size_t GUARD = 64 << 10; // a page of any size the kernel may have

// swapcontext makes a system call each time: fifteen times the cost of these few moves.
#if (defined(__x86_64__) || defined(__aarch64__)) && !defined(CUDA_ON_CPU_UCONTEXT)
struct Context { void** stack; };
extern "C" void cuda_on_cpu_switch(void*** from, void** to);
#ifdef __x86_64__
constexpr int SAVED = 8, RETURN = 6; // words on a new stack, and which of them is the address to go to
asm(R"(
    .text; .globl cuda_on_cpu_switch; .hidden cuda_on_cpu_switch; .type cuda_on_cpu_switch, %function
cuda_on_cpu_switch:
    pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
    movq %rsp, (%rdi); movq %rsi, %rsp
    popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
    ret
    .size cuda_on_cpu_switch, . - cuda_on_cpu_switch
)");
#else
constexpr int SAVED = 20, RETURN = 11;
asm(R"(
    .text; .globl cuda_on_cpu_switch; .hidden cuda_on_cpu_switch; .type cuda_on_cpu_switch, %function
cuda_on_cpu_switch:
    sub sp, sp, #160
    stp x19, x20, [sp]; stp x21, x22, [sp, #16]; stp x23, x24, [sp, #32]; stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]; stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]; stp d10, d11, [sp, #112]; stp d12, d13, [sp, #128]; stp d14, d15, [sp, #144]
    mov x9, sp; str x9, [x0]; mov sp, x1
    ldp x19, x20, [sp]; ldp x21, x22, [sp, #16]; ldp x23, x24, [sp, #32]; ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]; ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]; ldp d10, d11, [sp, #112]; ldp d12, d13, [sp, #128]; ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
    .size cuda_on_cpu_switch, . - cuda_on_cpu_switch
)");
#endif
void switch_context(Context& from, Context& to) { cuda_on_cpu_switch(&from.stack, to.stack); }
void start_context(Context& context, unsigned char* stack, void (*entry)()) {
    context.stack = reinterpret_cast<void**>(stack + STACK) - SAVED;
    memset(context.stack, 0, SAVED * sizeof(void*));
    context.stack[RETURN] = reinterpret_cast<void*>(entry);
}
#else
struct Context { ucontext_t state; };
void switch_context(Context& from, Context& to) { swapcontext(&from.state, &to.state); }
void start_context(Context& context, unsigned char* stack, void (*entry)()) {
    getcontext(&context.state);
    context.state.uc_stack.ss_sp = stack;
    context.state.uc_stack.ss_size = STACK;
    context.state.uc_link = nullptr;
    makecontext(&context.state, entry, 0);
}
#endif

struct Block;
struct Warp;

struct Fiber {
    Context context;
    unsigned char* stack = nullptr;
    size_t stack_bytes = STACK;
    void *tsan = nullptr, *fake_stack = nullptr;
    uint3 thread;
    Warp* warp = nullptr;
    unsigned lane = 0;
    const char* waits_at = nullptr;
    int line = 0;
    std::vector<Copy> copies;
    size_t copied = 0;
    unsigned committed = 0;
};

struct Warp {
    Block* block = nullptr;
    Fiber* fibers[32];
    unsigned lanes = 0, ready = 0;          // not exited; may run
    unsigned waiting = 0, claimed = 0;      // at a shuffle or warp barrier; named in the masks of those
    unsigned mask[32];
    uint64_t bits[32], received[32];
    int lane_mask[32];
    unsigned phase[32] = {};
    uint64_t token[32][2];
};

// Two tokens by turns: a thread still to leave a phase must not see what others release in the next.
struct Barrier {
    const char* name;
    Warp *first, *last;
    unsigned size = 0, arrived = 0, exited = 0, phase = 0;
    int line = 0;
    uint64_t token[2];
};

struct Block {
    uint3 index;
    unsigned char* shared = nullptr;
    Warp *first = nullptr, *last = nullptr;
    Barrier barrier;
    Block* cluster = nullptr; // the cluster's first block, whose cluster_barrier counts
    Barrier cluster_barrier;
    unsigned live = 0, rank = 0, peers = 1;
    int stored_line = 0;
    unsigned stored_phase = 0; // of the last store by a peer
};

std::vector<std::unique_ptr<Fiber>> fibers; // kept, with their stacks, for the next launch
Fiber host;
Fiber* current;
Block* block; // of the current fiber
void (*kernel)(const void*);
const void* argument;
unsigned shared_size, live;
bool cooperative_launch;
Warp *favourite, *first_warp, *last_warp;
unsigned rotation;
Barrier grid;
uint64_t random_state;
char message[1024];
uint64_t end_token;

void release([[maybe_unused]] void* token) {
#ifdef CUDA_ON_CPU_THREAD
    __tsan_release(token);
#endif
}
void acquire([[maybe_unused]] void* token) {
#ifdef CUDA_ON_CPU_THREAD
    __tsan_acquire(token);
#endif
}

uint64_t random_bits() {
    random_state += 0x9e3779b97f4a7c15;
    uint64_t bits = random_state;
    bits = (bits ^ (bits >> 30)) * 0xbf58476d1ce4e5b9;
    bits = (bits ^ (bits >> 27)) * 0x94d049bb133111eb;
    return bits ^ (bits >> 31);
}
unsigned random_below(unsigned bound) { return static_cast<unsigned>((random_bits() >> 32) * bound >> 32); }

void arrived_on_stack([[maybe_unused]] Fiber* self) {
#ifdef CUDA_ON_CPU_ADDRESS
    const void* bottom;
    size_t bytes;
    __sanitizer_finish_switch_fiber(self->fake_stack, &bottom, &bytes);
    if (!host.stack) {
        host.stack = static_cast<unsigned char*>(const_cast<void*>(bottom));
        host.stack_bytes = bytes;
    }
#endif
}

void switch_to(Fiber* next) {
    Fiber* self = current;
    if (next == self)
        return;
    current = next;
    if (next != &host) {
        block = next->warp->block;
        threadIdx = next->thread;
        blockIdx = block->index;
    }
#ifdef CUDA_ON_CPU_ADDRESS
    __sanitizer_start_switch_fiber(&self->fake_stack, next->stack, next->stack_bytes);
#endif
#ifdef CUDA_ON_CPU_THREAD
    __tsan_switch_to_fiber(next->tsan, __tsan_switch_to_fiber_no_sync);
#endif
    switch_context(self->context, next->context);
    arrived_on_stack(self);
}

// Plain buffers: an abandoned fiber runs no destructors.
[[gnu::format(printf, 1, 2)]] void say(const char* format, ...) {
    const size_t used = strlen(message);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message + used, sizeof message - used, format, arguments);
    va_end(arguments);
}

[[noreturn]] void abandon() {
    switch_to(&host);
    __builtin_unreachable();
}

template <typename... Arguments> [[noreturn]] void fail(const char* format, Arguments... arguments) {
    say(format, arguments...);
    say(" [block (%u, %u, %u), thread (%u, %u, %u)]", blockIdx.x, blockIdx.y, blockIdx.z, threadIdx.x, threadIdx.y,
        threadIdx.z);
    abandon();
}

[[noreturn]] void deadlock() {
    say("deadlock");
    unsigned counted = 0;
    for (unsigned places = 0; counted < live && places < 8; ++places) { // one place a turn
        const char* name = nullptr;
        int line = 0;
        unsigned count = 0;
        for (Warp* warp = first_warp; warp != last_warp; ++warp)
            for (unsigned rest = warp->lanes; rest; rest &= rest - 1) {
                Fiber& fiber = *warp->fibers[__builtin_ctz(rest)];
                if (!name && fiber.waits_at)
                    name = fiber.waits_at, line = fiber.line;
                if (name && fiber.waits_at == name && fiber.line == line)
                    fiber.waits_at = nullptr, ++count;
            }
        say("%s %u threads wait at %s, line %d", places ? ";" : ":", count, name, line);
        counted += count;
    }
    for (Warp* warp = first_warp; warp != last_warp; ++warp)
        if (warp->waiting) {
            const unsigned lane = static_cast<unsigned>(__builtin_ctz(warp->waiting)), mask = warp->mask[lane];
            say("; line %d: lanes 0x%08x of mask 0x%08x have come", warp->fibers[lane]->line, warp->waiting & mask,
                mask);
            break;
        }
    abandon();
}

void choose() {
    rotation = random_below(32);
    Warp* ranges[2][2] = {{favourite->block->first, favourite->block->last}, {first_warp, last_warp}};
    for (int scope = random_below(8) == 0; scope < 2; ++scope) { // mostly the favourite block goes on alone
        unsigned count = static_cast<unsigned>(ranges[scope][1] - ranges[scope][0]), start = random_below(count);
        for (unsigned i = 0; i < count; ++i) {
            Warp* warp = ranges[scope][0] + (start + i < count ? start + i : start + i - count);
            if (warp->ready) {
                favourite = warp;
                return;
            }
        }
    }
    deadlock();
}

// The favourite warp runs alone until all its lanes wait; now and then the favourite changes before.
Fiber* pick() {
    if (!favourite->ready || random_below(64) == 0)
        choose();
    unsigned turned = favourite->ready >> rotation | favourite->ready << (-rotation & 31);
    unsigned lane = (rotation + static_cast<unsigned>(__builtin_ctz(turned))) & 31;
    favourite->ready &= ~(1u << lane);
    return favourite->fibers[lane];
}

void park(const char* name, int line) {
    current->waits_at = name;
    current->line = line;
    switch_to(pick());
}

// The last to arrive goes on at once, or takes its chance with the others.
void go_on() {
    if (random_below(2))
        switch_to(pick());
    else
        current->warp->ready &= ~(1u << current->lane);
}

void wait_at(Barrier& barrier, int line) {
    if (barrier.exited)
        fail("%s at line %d: %u of %u threads have exited", barrier.name, line, barrier.exited, barrier.size);
    if (barrier.arrived && barrier.line != line)
        fail("divergent barrier: line %d and line %d", barrier.line, line);
    barrier.line = line;
    void* token = &barrier.token[barrier.phase & 1];
    release(token);
    if (++barrier.arrived == barrier.size) {
        barrier.arrived = 0;
        ++barrier.phase;
        for (Warp* warp = barrier.first; warp != barrier.last; ++warp)
            warp->ready = warp->lanes;
        go_on();
    } else {
        park(barrier.name, line);
    }
    acquire(token);
}

void meet(const char* name, unsigned mask, int line, bool shuffle) {
    Warp& warp = *current->warp;
    const unsigned lane = current->lane, bit = 1u << lane;
    if (!(mask & bit))
        fail("%s at line %d: lane %u is not in its mask 0x%08x", name, line, lane, mask);
    if (mask & ~warp.lanes)
        fail("%s at line %d: mask 0x%08x, but the live lanes are 0x%08x", name, line, mask, warp.lanes);
    if (unsigned others = warp.waiting & mask) {
        unsigned other = static_cast<unsigned>(__builtin_ctz(others));
        if (warp.mask[other] != mask)
            fail("%s at line %d: masks 0x%08x and 0x%08x", name, line, warp.mask[other], mask);
        if (warp.fibers[other]->line != line)
            fail("%s: lanes of one exchange at line %d and line %d", name, warp.fibers[other]->line, line);
    } else if (warp.claimed & mask) {
        fail("%s at line %d: mask 0x%08x overlaps another that waits", name, line, mask);
    }
    warp.mask[lane] = mask;
    warp.waiting |= bit;
    warp.claimed |= mask;
    if ((warp.waiting & mask) != mask)
        return park(name, line);
    warp.waiting &= ~mask;
    warp.claimed &= ~mask;
    warp.ready |= mask;
    for (unsigned rest = shuffle ? mask : 0; rest; rest &= rest - 1) { // now, before a fast lane brings its next value
        const int to = __builtin_ctz(rest);
        warp.received[to] = warp.bits[to ^ warp.lane_mask[to]];
    }
    go_on();
}

void finish() {
    if (current->copied < current->copies.size())
        fail("the async_copy of line %d is outstanding at the thread's exit", current->copies[current->copied].line);
    const unsigned bit = 1u << current->lane;
    Warp& warp = *current->warp;
    if (warp.claimed & bit)
        fail("lane %u exits, but the mask of line %d names it", current->lane,
             warp.fibers[__builtin_ctz(warp.waiting)]->line);
    for (Barrier* barrier : {&block->barrier, &block->cluster->cluster_barrier, &grid}) {
        if (barrier->arrived)
            fail("a thread exits while %u of %u threads wait at %s, line %d", barrier->arrived, barrier->size,
                 barrier->name, barrier->line);
        ++barrier->exited;
    }
    warp.lanes &= ~bit;
    if (--block->live == 0 && block->stored_line && block->stored_phase == block->cluster->cluster_barrier.phase)
        fail("a block ends with no cluster_barrier after the peer_store of line %d to it", block->stored_line);
    switch_to(--live ? pick() : &host);
    __builtin_unreachable();
}

void enter() {
    arrived_on_stack(current);
    kernel(argument);
    finish();
}

Fiber& make_fiber(size_t number) {
    while (fibers.size() <= number) {
        fibers.push_back(std::make_unique<Fiber>());
        void* memory = mmap(nullptr, GUARD + STACK, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED) {
            fibers.pop_back();
            throw std::bad_alloc();
        }
        mprotect(memory, GUARD, PROT_NONE);
        fibers.back()->stack = static_cast<unsigned char*>(memory) + GUARD;
    }
    Fiber& fiber = *fibers[number];
    fiber.copies.clear();
    fiber.copied = fiber.committed = 0;
    fiber.fake_stack = nullptr;
#ifdef CUDA_ON_CPU_ADDRESS
    __asan_unpoison_memory_region(fiber.stack, STACK); // an abandoned fiber leaves its frames
#endif
#ifdef CUDA_ON_CPU_THREAD
    fiber.tsan = __tsan_create_fiber(0);
#endif
    start_context(fiber.context, fiber.stack, enter);
    return fiber;
}

// Runs blocks [first, first + count) of the grid together, in fibers from `fiber` on.
void run_group(unsigned first, unsigned count, unsigned cluster, size_t fiber, std::vector<unsigned char*>& memory) {
    const unsigned threads = blockDim.x * blockDim.y * blockDim.z, warps_each = (threads + 31) / 32;
    std::vector<Block> blocks(count);
    std::vector<Warp> warps(size_t(count) * warps_each);
    first_warp = favourite = warps.data();
    last_warp = first_warp + warps.size();
    live = count * threads;
    grid = {"grid_barrier", first_warp, last_warp, live, 0, 0, 0, 0, {}};
    for (unsigned i = 0; i < count; ++i) {
        Block& made = blocks[i];
        const unsigned number = first + i;
        made.index = {number % gridDim.x, number / gridDim.x % gridDim.y, number / gridDim.x / gridDim.y};
        made.shared = static_cast<unsigned char*>(malloc(shared_size));
        memset(made.shared, 0xFF, shared_size);
        memory.push_back(made.shared);
        made.first = first_warp + i * warps_each;
        made.last = made.first + warps_each;
        made.live = threads;
        made.barrier = {"__syncthreads", made.first, made.last, threads, 0, 0, 0, 0, {}};
        made.rank = i % cluster;
        made.peers = cluster;
        made.cluster = &made - made.rank;
        made.cluster_barrier = {"cluster_barrier", made.first, made.first + cluster * warps_each, threads * cluster,
                                0, 0, 0, 0, {}};
    }
    for (unsigned i = 0; i < count * threads; ++i) {
        const unsigned thread = i % threads;
        Warp& warp = warps[i / threads * warps_each + thread / 32];
        Fiber& made = make_fiber(fiber + i);
        warp.block = &blocks[i / threads];
        warp.fibers[thread % 32] = &made;
        warp.lanes |= 1u << thread % 32;
        warp.ready = warp.lanes;
        made.warp = &warp;
        made.lane = thread % 32;
        made.thread = {thread % blockDim.x, thread / blockDim.x % blockDim.y, thread / blockDim.x / blockDim.y};
    }
    choose();
    switch_to(pick());
#ifdef CUDA_ON_CPU_THREAD
    for (unsigned i = 0; i < count * threads; ++i) { // also the abandoned ones: the host goes on after all of them
        __tsan_switch_to_fiber(fibers[fiber + i]->tsan, __tsan_switch_to_fiber_no_sync);
        __tsan_release(&end_token);
        __tsan_switch_to_fiber(host.tsan, __tsan_switch_to_fiber_no_sync);
    }
#endif
}
} // namespace

void block_barrier(int line) { wait_at(block->barrier, line); }
void cluster_barrier(int line) { wait_at(block->cluster->cluster_barrier, line); }
void grid_barrier(int line) {
    if (!cooperative_launch)
        fail("grid_barrier at line %d: the launch is not cooperative", line);
    wait_at(grid, line);
}

void warp_barrier(unsigned mask, int line) {
    if (mask == ~0u)
        mask = current->warp->lanes;
    Warp& warp = *current->warp;
    const unsigned low = mask ? static_cast<unsigned>(__builtin_ctz(mask)) : 0;
    void* token = &warp.token[low][warp.phase[low] & 1];
    release(token);
    if (((warp.waiting | 1u << current->lane) & mask) == mask)
        ++warp.phase[low];
    meet("__syncwarp", mask, line, false);
    acquire(token);
}

uint64_t exchange(unsigned mask, uint64_t bits, int lane_mask, int line) {
    Warp& warp = *current->warp;
    const unsigned lane = current->lane, source = lane ^ static_cast<unsigned>(lane_mask);
    if (source > 31 || !(mask >> source & 1))
        fail("__shfl_xor_sync at line %d: lane %u reads lane %u, not in mask 0x%08x", line, lane, source, mask);
    warp.bits[lane] = bits;
    warp.lane_mask[lane] = lane_mask;
    meet("__shfl_xor_sync", mask, line, true);
    return warp.received[lane];
}

void queue_copy(const Copy& copy) {
    const size_t offset = static_cast<size_t>(copy.to - block->shared);
    if (copy.to < block->shared || offset + static_cast<size_t>(copy.bytes) > shared_size)
        fail("async_copy at line %d: the destination is not in the block's shared memory", copy.line);
    if ((reinterpret_cast<uintptr_t>(copy.to) | reinterpret_cast<uintptr_t>(copy.from)) %
        static_cast<uintptr_t>(copy.bytes))
        fail("async_copy at line %d: not aligned to %d bytes", copy.line, copy.bytes);
    current->copies.push_back(copy);
    current->copies.back().group = current->committed;
}
void commit_copies() { ++current->committed; }
const Copy* next_copy(unsigned pending) {
    Fiber& fiber = *current;
    if (fiber.copied < fiber.copies.size() && fiber.copies[fiber.copied].group + pending < fiber.committed)
        return &fiber.copies[fiber.copied++];
    if (fiber.copied == fiber.copies.size()) {
        fiber.copies.clear();
        fiber.copied = 0;
    }
    return nullptr;
}

unsigned char* shared() { return block->shared; }
unsigned rank() { return block->rank; }

void* peer_address(void* own, int rank, unsigned bytes, int line) {
    unsigned char* address = static_cast<unsigned char*>(own);
    const size_t offset = static_cast<size_t>(address - block->shared);
    if (address < block->shared || offset + bytes > shared_size)
        fail("peer_store at line %d: the address is not in the block's own shared memory", line);
    if (rank < 0 || static_cast<unsigned>(rank) >= block->peers)
        fail("peer_store at line %d: rank %d of a cluster of %u", line, rank, block->peers);
    Block& peer = block->cluster[rank];
    if (&peer != block) {
        if (block->cluster->cluster_barrier.phase == 0) // whether or not it has started in this schedule
            fail("peer_store at line %d: no cluster_barrier before it, so the peer may not have started", line);
        if (peer.live == 0)
            fail("peer_store at line %d: the peer block has ended", line);
        peer.stored_line = line;
        peer.stored_phase = block->cluster->cluster_barrier.phase;
    }
    return peer.shared + offset;
}

CUDA_ON_CPU_EXPORT int emulate(void (*function)(const void*), const unsigned grid_size[3], const unsigned block_size[3],
                               unsigned shared_bytes, unsigned cluster, int cooperative, const void* call,
                               unsigned long long seed, char* error, unsigned error_bytes) {
    kernel = function;
    argument = call;
    shared_size = shared_bytes;
    cooperative_launch = cooperative;
    random_state = seed;
    message[0] = 0;
    host.stack = nullptr;
    current = &host;
    gridDim = {grid_size[0], grid_size[1], grid_size[2]};
    blockDim = {block_size[0], block_size[1], block_size[2]};
    const uint64_t blocks = uint64_t(gridDim.x) * gridDim.y * gridDim.z;
    const uint64_t threads = uint64_t(blockDim.x) * blockDim.y * blockDim.z;
    if (blocks == 0 || blocks > 1u << 24 || threads == 0 || threads > 1024)
        say("the grid or the block has a wrong size");
    else if (cluster == 0 || gridDim.x % cluster)
        say("grid.x is not a multiple of the cluster");
    const unsigned count = *message == 0 ? static_cast<unsigned>(cooperative ? blocks : cluster) : 1;
    std::vector<unsigned> starts;
    for (unsigned first = 0; *message == 0 && first < blocks; first += count) { // in random order
        starts.push_back(first);
        std::swap(starts.back(), starts[random_below(static_cast<unsigned>(starts.size()))]);
    }
    std::vector<unsigned char*> memory;
    size_t fiber = 0;
#ifdef CUDA_ON_CPU_THREAD
    host.tsan = __tsan_get_current_fiber();
    if (*message == 0 && blocks * threads > 4096)
        say("too many threads for ThreadSanitizer, which takes a megabyte for each");
#endif
    try {
        for (unsigned first : starts) {
            if (*message)
                break;
            run_group(first, count, cluster, fiber, memory);
#ifdef CUDA_ON_CPU_THREAD
            fiber += count * threads; // unordered blocks share neither stacks nor shared memory
#else
            for (unsigned char* shared : memory)
                free(shared);
            memory.clear();
#endif
        }
    } catch (const std::bad_alloc&) {
        say("out of memory");
    }
    acquire(&end_token);
#ifdef CUDA_ON_CPU_THREAD
    for (size_t i = 0; i < fiber; ++i)
        __tsan_destroy_fiber(fibers[i]->tsan);
#endif
    for (unsigned char* shared : memory)
        free(shared);
    snprintf(error, error_bytes, "%s", message);
    return *message != 0;
}
} // namespace cuda_on_cpu
#endif
