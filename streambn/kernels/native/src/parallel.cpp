#include "parallel.hpp"

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <condition_variable>
#include <system_error>
#include <thread>
#include <vector>

namespace streambn {

namespace {

// A pool of threads that wait for work. A new thread starts after 11 µs and costs its caller 8 µs.
// A waiting thread starts after 4 µs and costs its caller 1 µs. The pool raises the throughput for
// batches of 8 MB on two cores from 28 to 33 GB/s.
class ThreadPool {
  public:
    void run(const Work &work, int64_t helpers) {
        Job job{&work, helpers, 0, {}};
        {
            const std::lock_guard<std::mutex> guard(mutex_);
            while (threads_ < helpers && start_thread()) ++threads_;
            jobs_.push_back(&job);
        }
        for (int64_t i = 0; i < helpers; ++i) called_.notify_one();
        work();
        std::unique_lock<std::mutex> lock(mutex_);
        // All tasks are taken, so helpers that have not started are no longer needed.
        const auto at = std::find(jobs_.begin(), jobs_.end(), &job);
        if (at != jobs_.end()) jobs_.erase(at);
        job.left.wait(lock, [&] { return job.at_work == 0; });
    }

  private:
    struct Job {
        const Work *work;
        int64_t wanted, at_work;
        std::condition_variable left;
    };

    // Returns false if the system refuses a new thread. The existing threads then do the work.
    bool start_thread() {
        // Block all signals in the new thread, so that the application's threads handle them.
        sigset_t all, before;
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        bool started = true;
        try {
            std::thread([this] { serve(); }).detach();
        } catch (const std::system_error &) {
            started = false;
        }
        pthread_sigmask(SIG_SETMASK, &before, nullptr);
        return started;
    }

    [[noreturn]] void serve() {
        std::unique_lock<std::mutex> lock(mutex_);
        for (;;) {
            called_.wait(lock, [this] { return !jobs_.empty(); });
            Job &job = *jobs_.front();
            if (--job.wanted == 0) jobs_.erase(jobs_.begin());
            ++job.at_work;
            lock.unlock();
            (*job.work)();
            lock.lock();
            if (--job.at_work == 0) job.left.notify_one();
        }
    }

    std::mutex mutex_;
    std::condition_variable called_;
    std::vector<Job *> jobs_;  // jobs that still need helpers
    int64_t threads_ = 0;
};

// The pool is never destroyed, because its threads wait until the process ends. A forked child
// process inherits none of the threads, and its copy of the mutex may stay locked. The child
// therefore creates a new pool.
std::atomic<ThreadPool *> pool{nullptr};
const int forgets_at_fork = pthread_atfork(nullptr, nullptr, [] { pool = nullptr; });

}  // namespace

void run_together(const Work &work, int64_t helpers) {
    ThreadPool *present = pool;
    if (!present) {
        ThreadPool *const made = new ThreadPool;
        if (pool.compare_exchange_strong(present, made))
            present = made;
        else
            delete made;  // another thread created the pool first
    }
    present->run(work, helpers);
}

}  // namespace streambn
