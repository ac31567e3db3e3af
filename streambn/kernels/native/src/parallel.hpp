// Tasks on several threads.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>

namespace streambn {

// The number of bytes that justifies another thread. A helper starts about 5 µs after the call.
// In that time a core reads 100 KB, and the helper may have to read from another core's cache.
constexpr int64_t BYTES_PER_HELPER = 512 << 10;

// A function call without a copy of the function, which must not throw.
struct Work {
    void (*call)(const void *);
    const void *function;
    void operator()() const { call(function); }
};

// Do the work on this thread and on at most `helpers` others: on those that become idle before
// this thread has finished.
void run_together(const Work &work, int64_t helpers);

// Call `task(0, s)` ... `task(count - 1, s)`, each once, on at most `threads` threads, this one
// included. `s` is a Scratch that each thread has for itself. `bytes` is the size of all input.
template <class Scratch, class Task>
void run_tasks(int64_t count, int64_t bytes, int threads, const Task &task) {
    std::atomic<int64_t> next{0};
    std::exception_ptr failure;
    std::mutex mutex;
    const auto work = [&] {
        try {
            Scratch scratch;
            for (int64_t i; (i = next.fetch_add(1)) < count;) task(i, scratch);
        } catch (...) {
            next = count;
            const std::lock_guard<std::mutex> guard(mutex);
            failure = std::current_exception();
        }
    };
    int64_t workers = bytes / BYTES_PER_HELPER;
    if (workers > threads) workers = threads;
    if (workers > count) workers = count;
    const auto call = [](const void *function) { (*static_cast<decltype(&work)>(function))(); };
    if (workers > 1)
        run_together({call, &work}, workers - 1);
    else
        work();
    if (failure) std::rethrow_exception(failure);
}

}  // namespace streambn
