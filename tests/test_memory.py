"""csrc/memory.cpp by itself: what is taken lasts, nothing overlaps, all is given back and there for the next call."""

import shutil
import subprocess
from pathlib import Path

import pytest

CSRC = Path(__file__).resolve().parents[1] / "csrc"
COMPILER = shutil.which("g++") or shutil.which("c++")

PROGRAM = r"""
#include "memory.h"

#include <cstdio>
#include <cstdlib>
#include <new>
#include <stdexcept>
#include <thread>
#include <vector>

using namespace fastrecon;

#define CHECK(condition) \
  if (!(condition)) { std::printf("line %d: %s\n", __LINE__, #condition); std::exit(1); }

// Pieces of many sizes, each full of its own number, at three depths.
void use(int depth, int seed) {
  Scratch memory;
  std::vector<std::pair<int*, std::int64_t>> pieces;
  for (int k = 0; k < 6; ++k) {
    const std::int64_t n = k == 3 ? 0 : (std::int64_t(seed) * 7919 + k * k * 104729) % 300000;
    int* const p = memory.take<int>(n);
    CHECK(reinterpret_cast<std::uintptr_t>(p) % 64 == 0);
    for (std::int64_t i = 0; i < n; ++i) p[i] = 100 * depth + k;
    pieces.push_back({p, n});
    if (depth < 3 && k % 3 == 1) use(depth + 1, seed + k);
  }
  for (int k = 0; k < 6; ++k)
    for (std::int64_t i = 0; i < pieces[k].second; ++i) CHECK(pieces[k].first[i] == 100 * depth + k);
}

char* first_piece(std::int64_t n) {
  Scratch memory;
  return memory.take<char>(n);
}

int main() {
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) threads.emplace_back([t] { for (int i = 0; i < 10; ++i) use(0, 10 * t + i); });
  for (auto& t : threads) t.join();

  char* const kept = first_piece(1 << 20);
  for (int i = 0; i < 3; ++i) CHECK(first_piece(1 << i) == kept);
  {
    Scratch outer;
    char* const own = outer.take<char>(1000);
    own[0] = 7;
    try {
      Scratch inner;
      inner.take<char>(1000)[0] = 8;
      inner.take<double>(std::int64_t(1) << 56);
      CHECK(false);
    } catch (const std::bad_alloc&) {
    }
    CHECK(own[0] == 7);
  }
  CHECK(first_piece(1000) == kept);
  std::puts("ok");
}
"""


@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler on this machine")
def test_memory(tmp_path):
    source, program = tmp_path / "memory_test.cpp", tmp_path / "memory_test"
    source.write_text(PROGRAM)
    command = [COMPILER, "-std=c++17", "-O2", "-Wall", "-Werror", "-pthread", f"-I{CSRC}"]
    subprocess.run([*command, str(source), str(CSRC / "memory.cpp"), "-o", str(program)], check=True)
    result = subprocess.run([program], capture_output=True, text=True, check=False, timeout=120)
    assert result.stdout == "ok\n", result.stdout + result.stderr
