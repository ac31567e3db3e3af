// A parallel loop over tasks.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>

namespace streambn {

// Each additional thread needs this many bytes of input. A helper starts about 5 µs after the
// call. In that time the caller alone reads 100 KB. The helper may also have to read its data from
// another core's cache.
constexpr int64_t BYTES_PER_HELPER = 512 << 10;

// A reference to a function object, which must not throw. std::function would copy the object.
struct Work {
    void (*call)(const void *);
    const void *function;
    void operator()() const { call(function); }
};

// Runs `work` on this thread and on at most `helpers` others. A helper takes part only if it
// becomes idle before this thread finishes.
void run_together(const Work &work, int64_t helpers);

// Calls `task(i, scratch)` once for each i in [0, count), on at most `threads` threads including
// this one. Each thread owns one `Scratch`. `bytes` is the size of all input. If a task throws, the
// tasks that have not started are skipped, and this thread rethrows an exception.
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
