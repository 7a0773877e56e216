"""kernels/armijo_cuda.py: launches kernels/armijo.cu. Definition: fastrecon/ops/armijo.py."""

import torch
from torch import Tensor

from fastrecon.kernels.nvrtc import REALS, defines, launch, tiles_of


def armijo(
    x: Tensor, z: Tensor, grad: Tensor, lam: Tensor, curvature: Tensor, slack: Tensor, beta: float, eta: float,
    trials: int, composite: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Returns gamma float64 [B], sums float64 [B, 4], accepted bool [B]."""
    if x.dtype not in REALS or x.numel() == 0:
        return NotImplemented
    x, z, grad = (t.resolve_conj().resolve_neg().contiguous() for t in (x, z, grad))
    lam, curvature, slack = (t.contiguous() for t in (lam, curvature, slack))
    (B, N), tiles = x.shape, tiles_of(x.shape[1])
    gamma, sums = curvature.new_empty(B), curvature.new_empty(B, 4)
    accepted = torch.empty(B, dtype=torch.bool, device=x.device)
    partial, rises = curvature.new_empty(B, tiles, 3), curvature.new_empty(B, tiles, trials - 1)
    arrived = torch.zeros(2, B, dtype=torch.int32, device=x.device)
    where = (N, tiles, lam.shape[1] if lam.shape[0] > 1 else 0, int(lam.shape[1] > 1))
    outputs = (gamma, sums, accepted)
    launch(
        "armijo", "armijo_full", B * tiles, defines(x), x, z, grad, lam, curvature, slack, partial, arrived[0],
        *outputs, *where, float(beta), int(composite),
    )  # fmt: skip
    if trials > 1:
        launch(
            "armijo", "armijo_ladder", B * tiles, defines(x), x, z, lam, curvature, slack, rises, arrived[1],
            *outputs, *where, float(beta), float(eta), trials, int(composite),
        )  # fmt: skip
    return gamma, sums, accepted
