"""csrc/pool.cpp by itself: every task is done once, by whomever; errors reach the caller; nobody waits in vain."""

import shutil
import subprocess
from pathlib import Path

import pytest

CSRC = Path(__file__).resolve().parents[1] / "csrc"
COMPILER = shutil.which("g++") or shutil.which("c++")

PROGRAM = r"""
#include "pool.h"

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <thread>
#include <vector>

using namespace fastrecon;

#define CHECK(condition) \
  if (!(condition)) { std::printf("line %d: %s\n", __LINE__, #condition); std::exit(1); }

struct Counts {
  std::vector<std::atomic<int>> done;
  std::int64_t fails = -1;  // the task that throws
  explicit Counts(std::int64_t n) : done(n) {}
};

void count(const void* context, std::int64_t begin, std::int64_t end) {
  auto& counts = *static_cast<Counts*>(const_cast<void*>(context));
  for (std::int64_t i = begin; i < end; ++i) {
    if (i == counts.fails) throw std::runtime_error("task");
    ++counts.done[i];
  }
}

void nested(const void* context, std::int64_t begin, std::int64_t end) {
  for (std::int64_t i = begin; i < end; ++i) {
    static Site site;
    Counts own(64);
    share_tasks(64, 1 << 20, site, count, &own);
    for (auto& n : own.done) CHECK(n == 1);
  }
  count(context, begin, end);
}

// A task that only another thread than the caller's can end: it proves that the pool's threads take part.
std::atomic<int> arrived{0};
void meet(const void*, std::int64_t begin, std::int64_t end) {
  for (std::int64_t i = begin; i < end; ++i) {
    ++arrived;
    const auto start = std::chrono::steady_clock::now();
    const auto late = [&] { return std::chrono::steady_clock::now() - start > std::chrono::seconds(20); };
    while (arrived < 2 && !late()) std::this_thread::yield();
  }
}

int main() {
  for (std::int64_t tasks : {0, 1, 2, 3, 7, 64, 1000, 100000})
    for (std::int64_t work : {1, 1 << 15, 1 << 28}) {
      Site site;
      for (int repeat = 0; repeat < 30; ++repeat) {
        Counts counts(tasks);
        share_tasks(tasks, work, site, count, &counts);
        for (auto& n : counts.done) CHECK(n == 1);
      }
    }
  for (std::int64_t fails : {0, 1, 500, 999}) {
    Site site;
    Counts counts(1000);
    counts.fails = fails;
    bool caught = false;
    try {
      share_tasks(1000, 1 << 28, site, count, &counts);
    } catch (const std::runtime_error&) {
      caught = true;
    }
    CHECK(caught);
    for (auto& n : counts.done) CHECK(n <= 1);
    Counts after(1000);
    share_tasks(1000, 1 << 28, site, count, &after);
    for (auto& n : after.done) CHECK(n == 1);
  }
  {
    Site site;
    Counts counts(32);
    share_tasks(32, 1 << 28, site, nested, &counts);
    for (auto& n : counts.done) CHECK(n == 1);
  }
  std::vector<std::thread> callers;
  for (int c = 0; c < 6; ++c)
    callers.emplace_back([] {
      Site site;
      for (int repeat = 0; repeat < 300; ++repeat) {
        Counts counts(repeat);
        share_tasks(repeat, 1 << 28, site, count, &counts);
        for (auto& n : counts.done) CHECK(n == 1);
      }
    });
  for (auto& c : callers) c.join();
  if (cores() > 1 && threads() > 1) {
    Site site;
    share_tasks(2, 1 << 28, site, meet, nullptr);
    CHECK(arrived >= 2);
  }
  std::puts("ok");
}
"""


@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler on this machine")
@pytest.mark.parametrize("flags", [[], ["-fopenmp"]], ids=["plain", "openmp"])
def test_pool(tmp_path, flags):
    source, program = tmp_path / "pool_test.cpp", tmp_path / "pool_test"
    source.write_text(PROGRAM)
    command = [COMPILER, "-std=c++17", "-O2", "-Wall", "-Werror", "-pthread", *flags, f"-I{CSRC}"]
    subprocess.run([*command, str(source), str(CSRC / "pool.cpp"), "-o", str(program)], check=True)
    result = subprocess.run([program], capture_output=True, text=True, check=False, timeout=120)
    assert result.stdout == "ok\n", result.stdout + result.stderr
