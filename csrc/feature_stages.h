// feature_stages.h: in which order a band of rows goes through the layers, and how many rows of each it keeps.
//
// A band owns rows r0 <= r < r1 of the result. Stage i writes, a few rows at a time, what the next one convolves: h_1
// .. h_L on the way up, then z_{L-1} .. z_1 and the gradient on the way down. A 3x3 convolution looks one row beyond,
// so every stage has a row more than the next one at both ends. For L = 3, in the middle of a band:
//
//   stage  writes        r0 - 5    r0                                                 r1      r1 + 5
//     0    h_1           ====================================####................................
//     1    h_2             ================================####................................
//     2    h_3 = g, y*       ============================####................................
//     3    z_2                 ========================####................................
//     4    z_1                   ====================####................................
//     5    gradient                ================####................................
//                                  = done   # this step   . to come
//
// Layer l has one ring of rows: stage l - 1 writes h_l there, and on the way down z_l takes the place of h_l (of h_L,
// y*), row by row. Between any two steps:
//   - rows [range(i).lo, done[i]) of stage i are written;
//   - done[i] < done[i - 1], but for the last rows: a row is written once the stage before has the row below it;
//   - the ring of h_{i+1} holds its rows from done[reader] - 1 on, where `reader` is the last stage that looks at it,
//     to convolve z_{i+1}: a stage on the way up waits where its next rows would take the place of these;
//   - some stage can make a step: with one of each stage between writer and last reader, `kept` rows are enough.
#pragma once
#include "feature_layout.h"

namespace fastrecon {
namespace FASTRECON_ISA {
namespace {
// What a band computes.
enum class Pass {
  kBoth,     // value and gradient: up and down
  kUp,       // the value alone
  kTangent,  // the derivative: up and down with a second array, the tangent along d_grad, then s (see the definition)
};

class Stages {
 public:
  // Rows r0 <= r < r1 of the result, `step` rows of a stage at a time.
  Stages(const Shape& s, Pass pass, int r0, int r1, int step)
      : up_(pass == Pass::kUp), L_(s.L), H_(s.H), r0_(r0), r1_(r1), step_(step) {}

  int last() const { return up_ ? L_ - 1 : 2 * L_ - 1; }
  Range range(int stage) const {
    const int halo = last() - stage;
    return {at_least(0, r0_ - halo), at_most(H_, r1_ + halo)};
  }
  // Rows of layer l that a ring has to hold, where stages write `unit` rows at a time.
  int kept(int l, int unit) const {
    const Range rows = range(l - 1);
    return at_most(round_up(rows.hi - rows.lo, unit), step_ * (last_reader(l - 1) - l + 3) + 4);
  }

  // Rows of z_1 to scatter in a step of the last stage over rows begin <= r < end of the gradient: z_1's row r reaches
  // rows r - 1 .. r + 1, and each is scattered once.
  Range to_scatter(int begin, int end) const {
    const Range z = range(last() - 1);
    return {begin == r0_ ? z.lo : begin + 1, end == r1_ ? z.hi : at_most(z.hi, end + 1)};
  }

  // Calls stage(i, begin, end) for rows of stage i as soon as those of the stage before are there; ring(l) is kept(l).
  template <typename Ring, typename F>
  void run(const Ring& ring, const F& stage) const {
    int done[2 * kMaxLayers];
    for (int i = 0; i <= last(); ++i) done[i] = range(i).lo;
    const auto ready = [&](int i, int end) { return i == 0 || done[i - 1] >= at_most(range(i - 1).hi, end + 1); };
    const auto fits = [&](int i, int end) {
      const bool writes_ring = i < L_ && i < last();
      return !writes_ring || end <= oldest(i, done) + ring(i + 1);
    };
    while (done[last()] < range(last()).hi) {
      bool progress = false;
      for (int i = 0; i <= last(); ++i) {
        const int begin = done[i], end = at_most(range(i).hi, begin + step_);
        if (begin >= end || !ready(i, end) || !fits(i, end)) continue;
        stage(i, begin, end);
        done[i] = end;
        progress = true;
      }
      if (!progress) throw std::logic_error("feature_gradient: a ring is too small");  // a mistake in `kept`
    }
  }

 private:
  // The last stage that reads the ring of h_{stage + 1}: on the way down the one that convolves z_{stage + 1}.
  int last_reader(int stage) const { return up_ ? stage + 1 : 2 * L_ - 1 - stage; }
  int oldest(int stage, const int* done) const { return at_least(range(stage).lo, done[last_reader(stage)] - 1); }

  const bool up_;
  const int L_, H_, r0_, r1_, step_;
};
}  // namespace
}  // namespace FASTRECON_ISA
}  // namespace fastrecon
