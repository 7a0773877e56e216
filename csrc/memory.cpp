// memory.cpp: see memory.h.
#include "memory.h"

#include <algorithm>
#include <cstdlib>
#include <new>

namespace fastrecon {
namespace {
constexpr std::size_t kLine = 64, kPage = 4096;
constexpr std::size_t kLeast = std::size_t(1) << 16;  // bytes of a block
#if defined(__SANITIZE_ADDRESS__)
constexpr std::size_t kMost = 0;  // each piece by itself: what is read or written beyond its end is found
#else
constexpr std::size_t kMost = std::size_t(64) << 20;
#endif

std::size_t round_up(std::size_t n, std::size_t to) { return (n + to - 1) / to * to; }
}  // namespace

// The memory of one thread.
struct Arena {
  char* block = nullptr;
  std::size_t size = 0, used = 0;
  std::size_t live = 0, most = 0;  // bytes taken that a block may hold: now, and the most so far
  void* loose = nullptr;  // pieces that did not fit, the last one first; each begins with the next one's address

  ~Arena() { std::free(block); }

  void grow() {  // of an unused block, if there is memory for it
    std::free(block);
    const std::size_t wanted = round_up(std::min(std::max(most, kLeast), kMost), kPage);
    block = static_cast<char*>(std::aligned_alloc(kPage, wanted));
    size = block ? wanted : 0;
  }
  void* take(std::size_t bytes) {
    if (bytes <= kMost) {
      live += bytes, most = std::max(most, live);
      if (used == 0 && size < std::min(most, kMost)) grow();
      if (bytes <= size - used) {
        used += bytes;
        return block + used - bytes;
      }
    }
    char* const piece = static_cast<char*>(std::aligned_alloc(kLine, kLine + bytes));
    if (!piece) throw std::bad_alloc();
    *reinterpret_cast<void**>(piece) = loose;
    loose = piece;
    return piece + kLine;
  }
};
static thread_local Arena arena;

void* Scratch::take_bytes(std::size_t bytes) {
  if (!arena_) arena_ = &arena, used_ = arena.used, live_ = arena.live, loose_ = arena.loose;
  return arena_->take(round_up(bytes, kLine) + kLine);
}

void Scratch::release() {
  while (arena_->loose != loose_) {
    void* const piece = arena_->loose;
    arena_->loose = *static_cast<void**>(piece);
    std::free(piece);
  }
  arena_->used = used_, arena_->live = live_;
}
}  // namespace fastrecon
