// feature_stages.h: in which order a band of rows goes through the layers, and how many rows of each it keeps.
//
// Stages: h_1 .. h_L on the way up, then z_{L-1} .. z_1 and the gradient on the way down. Notation: feature_band.h
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

struct Range {
  int lo, hi;
};

class Stages {
 public:
  // Rows r0 <= r < r1 of the result, `step` rows of a stage at a time.
  Stages(const Shape& s, Pass pass, int r0, int r1, int step)
      : up_(pass == Pass::kUp), L_(s.L), H_(s.H), r0_(r0), r1_(r1), step_(step) {}

  int last() const { return up_ ? L_ - 1 : 2 * L_ - 1; }
  Range range(int stage) const {
    const int halo = last() - stage;
    return {larger(0, r0_ - halo), smaller(H_, r1_ + halo)};
  }
  // Rows of layer l that a ring has to hold, where stages write `unit` rows at a time.
  int kept(int l, int unit) const {
    const Range rows = range(l - 1);
    return smaller(round_up(rows.hi - rows.lo, unit), step_ * (last_reader(l - 1) - l + 3) + 4);
  }

  // Calls stage(i, begin, end) for rows of stage i as soon as those of the stage before are there; ring(l) is kept(l).
  template <typename Ring, typename F>
  void run(const Ring& ring, const F& stage) const {
    int done[2 * kMaxLayers];
    for (int i = 0; i <= last(); ++i) done[i] = range(i).lo;
    while (done[last()] < range(last()).hi) {
      bool progress = false;
      for (int i = 0; i <= last(); ++i) {
        const Range rows = range(i);
        const int begin = done[i], end = smaller(rows.hi, begin + step_);
        if (begin >= rows.hi) continue;
        if (i > 0 && done[i - 1] < smaller(range(i - 1).hi, end + 1)) continue;  // a row below is needed
        if (i < L_ && i < last() && end > oldest(i, done) + ring(i + 1)) continue;  // would overwrite rows still in use
        stage(i, begin, end);
        done[i] = end;
        progress = true;
      }
      if (!progress) std::abort();  // a ring too small: a mistake in the sizes above
    }
  }

 private:
  // The last stage that reads the ring of h_{stage + 1}: on the way down the one that convolves z_{stage + 1}.
  int last_reader(int stage) const { return up_ ? stage + 1 : 2 * L_ - 1 - stage; }
  int oldest(int stage, const int* done) const { return larger(range(stage).lo, done[last_reader(stage)] - 1); }

  const bool up_;
  const int L_, H_, r0_, r1_, step_;
};
}  // namespace
}  // namespace FASTRECON_ISA
}  // namespace fastrecon
