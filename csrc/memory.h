// memory.h: the memory that kernels and their tasks need while they run.
//
// Every thread keeps a block of it for its next call: the system has to clear every page it gives anew, which takes
// longer than filling it. Nothing here depends on an instruction set: memory.cpp is compiled once.
#pragma once
#include <cstddef>
#include <cstdint>

namespace fastrecon {
struct Arena;

// What is taken from it lives until its end. It serves the thread that made it, and the last one made is the first to
// end: a task makes its own. What does not fit the block is allocated, and next time the block is larger.
//
// Where there is none left `take` throws std::bad_alloc, which the pool hands on to the caller: MemoryError in Python.
class Scratch {
 public:
  inline __attribute__((always_inline)) Scratch() {}
  inline __attribute__((always_inline)) ~Scratch() {
    if (arena_) release();
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  // n numbers from a whole cache line on, as the last user left them, and a cache line after them: arrays whose sizes
  // are powers of two do not collide in the cache.
  template <typename T>
  inline __attribute__((always_inline)) T* take(std::int64_t n) {
    return static_cast<T*>(take_bytes(std::size_t(n) * sizeof(T)));
  }

 private:
  void* take_bytes(std::size_t bytes);
  void release();

  Arena* arena_ = nullptr;           // the thread's, from the first `take` on
  std::size_t used_ = 0, live_ = 0;  // of it before
  void* loose_ = nullptr;
};
}  // namespace fastrecon
