// Tasks on a few threads.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>

namespace streambn {

// Bytes that are worth a helper: it begins about 5 µs after it is called, in which a core reads
// 100 KB, and its core may have to read them from another's cache.
constexpr int64_t BYTES_FOR_A_HELPER = 512 << 10;

// Call `work` on this thread and meanwhile on some others, at most `helpers`: as many as are idle
// before this thread has finished. `work` may be called less often than that, and must not throw.
void run_together(const std::function<void()> &work, int64_t helpers);

// Call `task(0, s)` ... `task(count - 1, s)`, each once; this thread works too. `s` is a
// Scratch that each thread has for itself, `bytes` how much there is to read in all.
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
    int64_t workers = bytes / BYTES_FOR_A_HELPER;
    if (workers > threads) workers = threads;
    if (workers > count) workers = count;
    if (workers > 1)
        run_together(work, workers - 1);
    else
        work();
    if (failure) std::rethrow_exception(failure);
}

}  // namespace streambn
