"""The least-squares start of block compressed sensing: the linear map from measurements that fits blocks best."""

import torch
from torch import Tensor

from fastrecon.train.images import Crops


def block_covariance(crops: Crops, block: int, blocks: int) -> Tensor:
    """Second moment E[x x^T] of about `blocks` row-major block x block crops, float64 [block^2, block^2]."""
    n, side = block * block, crops.side // block
    total = torch.zeros(n, n, dtype=torch.float64)
    batch = max(1, 4096 // side**2)
    rounds = -(-blocks // (batch * side**2))
    for _ in range(rounds):
        x = crops(batch).view(-1, side, block, side, block).transpose(2, 3).reshape(-1, n).to("cpu", torch.float64)
        total.addmm_(x.T, x)
    return total / (rounds * batch * side**2)


def least_squares_start(phi: Tensor, covariance: Tensor, ridge: float = 1e-6) -> Tensor:
    """Q [n, m] that minimises the mean of |Q Phi x - x|^2: Q = C Phi^T (Phi C Phi^T)^-1, so that Phi Q = I.

    The ridge, relative to the mean of C's diagonal, goes into C: the system stays well conditioned where blocks lie in
    a subspace, and Phi Q = I holds all the same. With C = X X^T this is X B^T (B B^T)^-1, B = Phi X.

    Args:
        phi: sampling matrix [m, n] of full row rank.
        covariance: second moment of the blocks [n, n], float64.
        ridge: > 0.

    Source: Zhang & Ghanem, ISTA-Net, arXiv:1706.07929, sec. 3.3.
    """
    phi = phi.to(torch.float64)
    c = covariance + ridge * covariance.diagonal().mean() * torch.eye(len(covariance), dtype=torch.float64)
    c_phi = c @ phi.T
    return torch.linalg.solve(phi @ c_phi, c_phi, left=False)
