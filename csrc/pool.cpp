// pool.cpp: see pool.h.
#include "pool.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <mutex>
#include <new>
#include <string>
#include <thread>
#ifdef _OPENMP
#include <omp.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#include <signal.h>
#endif
#if defined(__linux__)
#include <dlfcn.h>
#include <sched.h>
#endif

namespace fastrecon {
namespace {
using Clock = std::chrono::steady_clock;
using Nanoseconds = double;

constexpr Nanoseconds kSpin = 10e3;         // active waiting, at most
constexpr Nanoseconds kQuietSpin = 200e3;   // the same while sharing pays, which on a machine with company it does not
constexpr Nanoseconds kPortion = 20e3;      // time that a portion of tasks should take: the delay by one lost thread
constexpr Nanoseconds kLong = 4e6;          // work that is always shared: as long as a time slice of the system
constexpr Nanoseconds kLeast = 4e3;         // work that is never shared: calling costs as much
constexpr int kLengths = 10;                // powers of two from kLeast to kLong
constexpr int kProbe = 16;                  // of calls whose sharing has not paid, one in so many asks if it does now
constexpr double kWorst = 16;               // a loss that counts, in lengths of the work
constexpr std::int64_t kUnknown = 1 << 15;  // work of a site that was never timed from which on it is shared

Nanoseconds since(Clock::time_point start) {
  return std::chrono::duration<double, std::nano>(Clock::now() - start).count();
}

void pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#else
  std::this_thread::yield();
#endif
}

// Waits actively, for a little while.
std::atomic<Nanoseconds> patience{kSpin};

template <typename F>
bool soon(const F& done) {
  const Nanoseconds most = patience.load(std::memory_order_relaxed);
  for (const auto start = Clock::now(); since(start) < most;)
    for (int i = 0; i < 16; ++i) {
      if (done()) return true;
      pause();
    }
  return done();
}

double first_number(const char* path) {
  std::ifstream file(path);
  double value = -1;
  return file >> value ? value : -1;
}

// Cores' worth of processor time that a container's limits allow; infinite where there are none.
double quota() {
  double found = HUGE_VAL;
#if defined(__linux__)
  std::ifstream own("/proc/self/cgroup");  // lines of hierarchy:controllers:path
  for (std::string line; std::getline(own, line);) {
    const auto first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const bool unified = controllers.empty();
    if (!unified && ("," + controllers + ",").find(",cpu,") == std::string::npos) continue;
    // a limit may lie on any group above; in a container the path may begin outside what is mounted
    for (std::string path = line.substr(second + 1);; path.erase(path.rfind('/'))) {
      while (!path.empty() && path.back() == '/') path.pop_back();
      if (unified) {
        std::ifstream file("/sys/fs/cgroup" + path + "/cpu.max");
        double time, period;
        if (file >> time >> period && time > 0 && period > 0) found = std::min(found, time / period);
      } else {
        const std::string folder = "/sys/fs/cgroup/cpu" + path;
        const double time = first_number((folder + "/cpu.cfs_quota_us").c_str());
        const double period = first_number((folder + "/cpu.cfs_period_us").c_str());
        if (time > 0 && period > 0) found = std::min(found, time / period);
      }
      if (path.rfind('/') == std::string::npos) break;
    }
  }
#endif
  return found;
}

int affinity() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
#endif
  return std::max(1u, std::thread::hardware_concurrency());
}

thread_local int resting = 0, kept = 0;  // how deep the sections of alone() are, and OpenMP's number outside of them

int openmp_threads() {
#ifdef _OPENMP
  return omp_get_max_threads();
#else
  return affinity();
#endif
}

void set_openmp_threads(int count) {
#ifdef _OPENMP
  omp_set_num_threads(count);
#endif
}

// Sets this thread's number for the MKL inside of torch, which torch.set_num_threads takes out of OpenMP's hands;
// returns the one before.
int set_mkl_threads(int count) {
#if defined(__linux__)
  using Set = int (*)(int);
  static const Set set = [] {
    void* torch = dlopen("libtorch_cpu.so", RTLD_LAZY | RTLD_NOLOAD);
    return torch ? reinterpret_cast<Set>(dlsym(torch, "MKL_Set_Num_Threads_Local")) : nullptr;
  }();
  return set ? set(count) : 0;
#else
  return 0;
#endif
}

int asked() { return resting ? kept : openmp_threads(); }

struct Machine {
  int allowed = affinity();
  int all = std::max(1, int(std::min(double(allowed), std::ceil(quota()))));
  bool chosen = std::getenv("OMP_NUM_THREADS") != nullptr;
};

const Machine& machine() {
  static const Machine found;
  return found;
}

// Work that is being shared. Its fields change only while no thread of the pool is in it.
struct Job {
  Body body = nullptr;
  const void* context = nullptr;
  std::int64_t tasks = 0, portion = 1;
  std::atomic<std::int64_t> next{0};
  std::atomic<std::int64_t> busy{0};  // nanoseconds that all threads spent on it
  std::atomic<bool> failed{false};
  std::exception_ptr error;

  void work() {
    const auto start = Clock::now();
    for (;;) {
      const std::int64_t begin = next.fetch_add(portion, std::memory_order_relaxed);
      if (begin >= tasks) break;
      try {
        body(context, begin, std::min(tasks, begin + portion));
      } catch (...) {
        if (!failed.exchange(true)) error = std::current_exception();
        next.store(tasks, std::memory_order_relaxed);
      }
    }
    busy.fetch_add(std::int64_t(since(start)), std::memory_order_relaxed);
  }
};

thread_local bool inside = false;  // a task is running in this thread

class Pool {
 public:
  // False where the pool is at another's work.
  bool share(Body body, const void* context, std::int64_t tasks, std::int64_t portion, int helpers, Nanoseconds* busy) {
    if (taken_.exchange(true, std::memory_order_acquire)) return false;
    start(helpers);
    job_.body = body, job_.context = context, job_.tasks = tasks, job_.portion = portion;
    job_.next.store(0, std::memory_order_relaxed), job_.busy.store(0, std::memory_order_relaxed);
    job_.failed.store(false, std::memory_order_relaxed), job_.error = nullptr;
    places_.store(helpers, std::memory_order_relaxed);
    gate_.store(0, std::memory_order_release);  // open, nobody within
    calls_.fetch_add(1, std::memory_order_seq_cst);
    wake(std::min(helpers, 2));
    inside = true;
    job_.work();
    inside = false;
    gate_.fetch_or(kClosed, std::memory_order_acq_rel);
    leave();
    *busy = double(job_.busy.load(std::memory_order_relaxed));
    const std::exception_ptr error = job_.error;
    job_.error = nullptr;
    taken_.store(false, std::memory_order_release);
    if (error) std::rethrow_exception(error);
    return true;
  }

 private:
  static constexpr std::int64_t kClosed = std::int64_t(1) << 32;

  void start(int count) {
    for (; started_ < count; ++started_) {
#if defined(__unix__) || defined(__APPLE__)
      sigset_t all, before;  // signals are for the caller's threads
      sigfillset(&all);
      pthread_sigmask(SIG_SETMASK, &all, &before);
#endif
      try {
        std::thread([this] { serve(); }).detach();
      } catch (const std::system_error&) {  // no more threads to be had: the work gets done without
        started_ = 1 << 20;
      }
#if defined(__unix__) || defined(__APPLE__)
      pthread_sigmask(SIG_SETMASK, &before, nullptr);
#endif
    }
  }

  void wake(int count) {
    if (asleep_.load(std::memory_order_seq_cst) == 0) return;
    { std::lock_guard<std::mutex> lock(mutex_); }  // who has seen no call is asleep by now
    for (int i = 0; i < count; ++i) called_.notify_one();
  }

  [[noreturn]] void serve() {
    std::int64_t seen = 0;
    for (;;) {
      if (!soon([&] { return calls_.load(std::memory_order_acquire) != seen; })) {
        std::unique_lock<std::mutex> lock(mutex_);
        asleep_.fetch_add(1, std::memory_order_seq_cst);
        called_.wait(lock, [&] { return calls_.load(std::memory_order_seq_cst) != seen; });
        asleep_.fetch_sub(1, std::memory_order_seq_cst);
      }
      seen = calls_.load(std::memory_order_acquire);
      if (!enter()) continue;
      const std::int64_t left = job_.tasks - job_.next.load(std::memory_order_relaxed);
      if (left > job_.portion) wake(int(std::min<std::int64_t>(2, left / job_.portion - 1)));
      inside = true;
      job_.work();
      inside = false;
      if (gate_.fetch_sub(1, std::memory_order_acq_rel) == kClosed + 1) {
        std::lock_guard<std::mutex> lock(mutex_);
        left_.notify_one();
      }
    }
  }

  bool enter() {
    for (std::int64_t now = gate_.load(std::memory_order_acquire); now < places_.load(std::memory_order_relaxed);)
      if (gate_.compare_exchange_weak(now, now + 1, std::memory_order_acq_rel)) return true;
    return false;
  }

  // Until all that entered have left.
  void leave() {
    const auto empty = [&] { return gate_.load(std::memory_order_acquire) == kClosed; };
    if (soon(empty)) return;
    std::unique_lock<std::mutex> lock(mutex_);
    left_.wait(lock, empty);
  }

  Job job_;
  std::atomic<bool> taken_{false};
  std::atomic<std::int64_t> gate_{kClosed}, calls_{0}, places_{0};
  std::atomic<int> asleep_{0};
  std::mutex mutex_;
  std::condition_variable called_, left_;
  int started_ = 0;
};

// Never destroyed: its threads are still there when the process ends. A child of fork has none and begins anew.
Pool*& pool() {
  static Pool* the = [] {
#if defined(__unix__) || defined(__APPLE__)
    pthread_atfork(nullptr, nullptr, [] {
      pool() = new Pool;
      inside = false;
    });
#endif
    return new Pool;
  }();
  return the;
}

// What sharing has saved lately, in lengths of the work, by the length. A thread that the system takes from a core
// while it holds a portion makes all wait for a time slice: rare on a quiet machine, and beside others often enough to
// cost more than all the rest saves. The mean sees that, whoever is to blame.
struct Savings {
  std::atomic<float> mean{0.25f};
  std::atomic<unsigned> asked{0};

  bool worth() {
    return mean.load(std::memory_order_relaxed) > 0 || asked.fetch_add(1, std::memory_order_relaxed) % kProbe == 0;
  }
  void add(double saved) {
    const float known = mean.load(std::memory_order_relaxed);
    const float now = known + float(std::max(saved, -kWorst) - known) / 16;
    mean.store(now, std::memory_order_relaxed);
    patience.store(now > 0 ? kQuietSpin : kSpin, std::memory_order_relaxed);
  }
};

Savings& savings(Nanoseconds length) {
  static Savings table[kLengths];
  return table[std::min(kLengths - 1, std::max(0, std::ilogb(length / kLeast)))];
}

float learned(float cost, double now) {  // down at once, up slowly: a thread that was not run makes work seem longer
  return float(cost == 0 || now < cost ? now : std::min(now, cost * 1.05));
}
}  // namespace

int threads() {
  const int wanted = asked();
  return machine().chosen || wanted > machine().allowed ? wanted : std::min(wanted, machine().all);
}

thread_local int kept_mkl = 0;  // 0: as all threads of the process

void enter_alone() {
  if (resting++ == 0) kept_mkl = set_mkl_threads(1), set_openmp_threads((kept = openmp_threads(), 1));
}

void leave_alone() {
  if (--resting == 0) set_mkl_threads(kept_mkl), set_openmp_threads(kept);
}

void enter_together() {
  if (resting) set_mkl_threads(kept_mkl), set_openmp_threads(kept);
}

void leave_together() {
  if (resting) set_mkl_threads(1), set_openmp_threads(1);
}

int cores() { return machine().all; }

void share_tasks(std::int64_t tasks, std::int64_t work, Site& site, Body body, const void* context) {
  if (tasks <= 0) return;
  float cost;
  __atomic_load(&site.cost, &cost, __ATOMIC_RELAXED);
  const auto start = Clock::now();
  Nanoseconds spent;
  const auto shared = [&] {
    if (tasks == 1 || inside) return false;
    const int helpers = int(std::min<std::int64_t>(std::min(threads(), cores()), tasks) - 1);
    if (helpers < 1) return false;
    const Nanoseconds expected = double(cost) * double(work);
    if (cost == 0 ? work < kUnknown : expected < kLeast) return false;
    if (cost != 0 && expected < kLong && !savings(expected).worth()) return false;
    const double each = cost == 0 ? HUGE_VAL : expected / double(tasks);
    const std::int64_t fair = std::max<std::int64_t>(1, tasks / (4 * (helpers + 1)));
    const std::int64_t portion =
        each * double(fair) <= kPortion ? fair : std::max<std::int64_t>(1, std::int64_t(kPortion / each));
    if (!pool()->share(body, context, tasks, std::min(portion, fair), helpers, &spent)) return false;
    if (cost != 0) savings(expected).add(1 - since(start) / expected);
    return true;
  };
  if (!shared()) {
    body(context, 0, tasks);
    spent = since(start);
  }
  cost = learned(cost, spent / double(std::max<std::int64_t>(1, work)));
  __atomic_store(&site.cost, &cost, __ATOMIC_RELAXED);
}
}  // namespace fastrecon
