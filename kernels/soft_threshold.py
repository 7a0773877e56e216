"""kernels/soft_threshold.py: soft thresholding, real or complex: the proximal map of tau |x|^p with p = 1 (Triton).

  x [R, M, S]   tau [M]  thresholds, >= 0    y [R, M, S]  sign(x) max(|x| - tau, 0); complex: x max(1 - tau / |x|, 0)
  d_x = d_y, complex: (1 - tau/|x|) d_y + tau/|x| <u, d_y> u, and d_tau = -sum <u, d_y>, u = x/|x|, where |x| > tau
Definition: fastrecon/ops/soft_threshold.py.  Kernels: kernels/prox_lp.py, compiled for p = 1.
"""

from torch import Tensor

from fastrecon.kernels.prox_lp import prox_lp_bwd, prox_lp_fwd


def soft_threshold_fwd(x: Tensor, tau: Tensor) -> Tensor:
    """Returns y like x."""
    return prox_lp_fwd(x, tau, 1.0)


def soft_threshold_bwd(d_y: Tensor, x: Tensor, tau: Tensor) -> tuple[Tensor, Tensor]:
    """Returns d_x like x, d_tau like tau."""
    return prox_lp_bwd(d_y, x, tau, 1.0)
