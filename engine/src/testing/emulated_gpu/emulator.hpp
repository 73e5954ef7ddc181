// Runs programs for GPUs on a CPU: what CUDA C++ has beyond C++, for tests of what a kernel computes.
//
// The threads of a block are contexts that take turns: each runs until it waits for the others. Who comes first in a
// turn is the caller's choice: a result that depends on it lacks a `__syncthreads`. A context is made once for all blocks,
// and left and entered by jumps, which unlike `swapcontext` do not call the system.

#include <cstring>
#include <functional>
#include <math.h>
#include <memory>
#include <setjmp.h>
#include <type_traits>
#include <ucontext.h>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __shared__ static thread_local

struct Place {
    unsigned x;
};
thread_local Place threadIdx, blockIdx, blockDim, gridDim;

namespace emulator {

const size_t STACK_BYTES = 64 << 10;

enum Outcome { FINE, WRONG_ARGUMENTS, THREADS_DO_NOT_MEET };

struct Thread {
    ucontext_t beginning;
    jmp_buf place;
    bool has_begun = false;
    bool has_ended;
    // Not a vector, which would write to all of it.
    std::unique_ptr<char[]> stack = std::unique_ptr<char[]>(new char[STACK_BYTES]);
};

thread_local jmp_buf turns;
thread_local Thread* running;
// Made once, for the largest block.
thread_local std::vector<Thread> made;
thread_local const std::function<void()>* body;

// Gives the turn back.
void wait() {
    if (_setjmp(running->place) == 0) {
        _longjmp(turns, 1);
    }
}

// What a thread does, block after block.
void begin() {
    while (true) {
        (*body)();
        running->has_ended = true;
        wait();
    }
}

// Lets a thread run until it waits.
void run_on(Thread& thread) {
    running = &thread;
    if (_setjmp(turns) != 0) {
        return;
    }
    if (thread.has_begun) {
        _longjmp(thread.place, 1);
    }
    thread.has_begun = true;
    getcontext(&thread.beginning);
    thread.beginning.uc_stack.ss_sp = thread.stack.get();
    thread.beginning.uc_stack.ss_size = STACK_BYTES;
    makecontext(&thread.beginning, begin, 0);
    setcontext(&thread.beginning);
}

// Lets each thread run until it waits or ends, until all have ended.
Outcome run_block(unsigned threads, bool backwards) {
    for (Thread& thread : made) {
        thread.has_ended = false;
    }
    size_t ended = 0;
    while (ended == 0) {
        for (unsigned turn = 0; turn < threads; turn++) {
            threadIdx.x = backwards ? threads - 1 - turn : turn;
            run_on(made[threadIdx.x]);
            ended += running->has_ended;
        }
    }
    return ended == threads ? FINE : THREADS_DO_NOT_MEET;
}

template <typename A> char letter() {
    if (std::is_pointer<A>::value) {
        return 'p';
    }
    if (std::is_same<A, double>::value) {
        return 'w';
    }
    return std::is_same<A, float>::value ? 'n' : sizeof(A) == 8 ? 'c' : 'k';
}

template <typename... A, size_t... I>
Outcome run(void (*kernel)(A...), std::index_sequence<I...>, const char* letters, unsigned blocks, unsigned threads,
            bool backwards, void** arguments) {
    const char expected[] = {letter<A>()..., 0};
    if (letters && strcmp(letters, expected) != 0) {
        return WRONG_ARGUMENTS;
    }
    std::function<void()> call = [=] { kernel(*static_cast<A*>(arguments[I])...); };
    if (made.size() < threads) {
        made = std::vector<Thread>(threads);
    }
    body = &call;
    gridDim.x = blocks;
    blockDim.x = threads;
    for (blockIdx.x = 0; blockIdx.x < blocks; blockIdx.x++) {
        Outcome outcome = run_block(threads, backwards);
        if (outcome != FINE) {
            made.clear();
            return outcome;
        }
    }
    return FINE;
}

template <typename... A>
Outcome run(void (*kernel)(A...), const char* letters, unsigned blocks, unsigned threads, bool backwards,
            void** arguments) {
    return run(kernel, std::index_sequence_for<A...>(), letters, blocks, threads, backwards, arguments);
}

// The kinds of a kernel's arguments.
template <typename... A> const char* letters(void (*)(A...)) {
    static const char all[] = {letter<A>()..., 0};
    return all;
}

} // namespace emulator

void __syncthreads() {
    emulator::wait();
}

// A kernel of a program that was included in a namespace, for callers in other languages. Letters are the kinds of its
// arguments, if the caller knows them.
#define KERNEL(program, name)                                                                                   \
    extern "C" int run_##name(const char* letters, unsigned blocks, unsigned threads, int backwards, void** arguments) { \
        return emulator::run(program::name, letters, blocks, threads, backwards != 0, arguments);               \
    }                                                                                                           \
    extern "C" const char* letters_##name() { return emulator::letters(program::name); }
