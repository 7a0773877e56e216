// pool.h: the threads that all kernels share. Nothing of them depends on an instruction set: pool.cpp is compiled once.
//
// A kernel divides its work into tasks that depend on sizes and on threads() alone, so that results do not depend on
// who does a task or when. Tasks are claimed in small portions by the calling thread and by those threads of the pool
// that are there in time: one that the system does not run for a while delays the portion it holds, and nobody waits
// for one that never came. That is the difference from OpenMP, whose regions end when all threads have arrived, on a
// busy machine milliseconds after the work is done.
#pragma once
#include <cstdint>

namespace fastrecon {
// Threads that work is divided for: what torch.set_num_threads or OMP_NUM_THREADS say, but no more than the cores that
// this process may use, by its affinity and its share of processor time (cgroup quota), unless OMP_NUM_THREADS or a
// number above the affinity asks for that. However many are asked for, no more run than there are cores.
int threads();

// Between these two, OpenMP's regions in this thread have one thread, and threads() is what it was: sums and copies by
// others that are over in microseconds must not wait for threads that may not be there. They nest. Other threads of the
// process are not concerned.
void enter_alone();
void leave_alone();
// Within such a section: OpenMP has its threads back, for work of milliseconds. Not to be nested.
void enter_together();
void leave_together();

// Cores that this process may use, as above.
int cores();

// One place in the code that shares work, and what was learned of it: nanoseconds for a unit of its work.
struct Site {
  float cost = 0;
};

// Tasks begin <= i < end of `context`. May throw: the rest is left out then, and the caller gets the exception.
using Body = void (*)(const void* context, std::int64_t begin, std::int64_t end);

// All of 0 <= i < tasks, `work` units in sum. They are shared where that pays: by what the site's work cost before, and
// by what sharing work of that length has saved lately. Within a task, or where another thread is sharing its work
// already, the caller does all.
void share_tasks(std::int64_t tasks, std::int64_t work, Site& site, Body body, const void* context);
}  // namespace fastrecon
