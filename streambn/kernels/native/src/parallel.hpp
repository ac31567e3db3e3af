// Tasks on a few threads.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace streambn {

// Bytes that are worth a thread of their own: it starts in about 15 µs, in which a core
// reads 200 KB. There is no pool: nothing to shut down, and nothing to break when the
// process forks.
constexpr int64_t BYTES_FOR_A_THREAD = 1 << 20;

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
    int64_t helpers = bytes / BYTES_FOR_A_THREAD;
    if (helpers > threads) helpers = threads;
    if (helpers > count) helpers = count;
    std::vector<std::thread> pool;
    try {
        for (int64_t i = 1; i < helpers; ++i) pool.emplace_back(work);
    } catch (...) {
        // The system gives no more threads: those that there are do the work.
    }
    work();
    for (std::thread &thread : pool) thread.join();
    if (failure) std::rethrow_exception(failure);
}

}  // namespace streambn
