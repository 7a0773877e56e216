"""kernels/select_descent_cuda.py: launches kernels/select_descent.cu. Definition: fastrecon/ops/select_descent.py."""

import torch
from torch import Tensor

from fastrecon.kernels.nvrtc import REALS, defines, launch, tiles_of

WORDS = {16: "uint4", 4: "unsigned", 1: "char"}  # what images of a multiple of so many bytes are copied by


def _words(*images: Tensor) -> tuple[int, str]:
    """(words of an image, their type) for contiguous batches of one shape and type."""
    size = images[0][0].numel() * images[0].element_size()
    fits = (w for w in WORDS if size % w == 0 and all(t.data_ptr() % w == 0 for t in images))
    return size // (width := next(fits)), WORDS[width]


def select_descent(u: Tensor, v: Tensor, phi_u: Tensor, phi_v: Tensor) -> tuple[Tensor, Tensor]:
    """Returns x like u, took_u bool [B]."""
    if u.numel() == 0:
        return NotImplemented
    u, v, phi_u, phi_v = u.contiguous(), v.contiguous(), phi_u.double().contiguous(), phi_v.double().contiguous()
    x, took_u = torch.empty_like(u), torch.empty_like(phi_u, dtype=torch.bool)
    words, word = _words(u, v, x)
    tiles = tiles_of(words)
    macros = {"REAL": "float", "WORD": word}
    launch("select_descent", "select_descent", len(u) * tiles, macros, u, v, phi_u, phi_v, x, took_u, words, tiles)
    return x, took_u


def select_descent_bwd(d_x: Tensor, took_u: Tensor) -> tuple[Tensor, Tensor]:
    """Returns d_u and d_v like d_x."""
    if d_x.numel() == 0:
        return NotImplemented
    d_x, took_u = d_x.contiguous(), took_u.contiguous()
    d_u, d_v = torch.empty_like(d_x), torch.empty_like(d_x)
    words, word = _words(d_x, d_u, d_v)
    tiles = tiles_of(words)
    macros = {"REAL": "float", "WORD": word}
    launch("select_descent", "select_descent_bwd", len(d_x) * tiles, macros, d_x, took_u, d_u, d_v, words, tiles)
    return d_u, d_v


def shrink_eps(
    grad_f: Tensor, grad_r: Tensor, eps: Tensor, sigma: float, gamma: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns grad like grad_f, norm float64 [B], eps_next like eps, shrunk bool [B]."""
    real = grad_f.dtype.to_real() if grad_f.is_complex() else grad_f.dtype
    if grad_f.dtype not in REALS or grad_r.dtype != grad_f.dtype or eps.dtype != real or grad_f.numel() == 0:
        return NotImplemented
    grad_f, grad_r = (t.resolve_conj().resolve_neg().contiguous() for t in (grad_f, grad_r))
    eps, grad = eps.contiguous(), torch.empty_like(grad_f)
    N = grad[0].numel() * (2 if grad.is_complex() else 1)
    tiles = tiles_of(N)
    partial = torch.empty(len(grad), tiles, dtype=torch.float64, device=eps.device)
    arrived = torch.zeros(len(grad), dtype=torch.int32, device=eps.device)
    norm, eps_next = torch.empty_like(eps, dtype=torch.float64), torch.empty_like(eps)
    shrunk = torch.empty_like(eps, dtype=torch.bool)
    launch(
        "select_descent", "shrink_eps", len(grad) * tiles, {"REAL": defines(grad)["REAL"], "WORD": "unsigned"},
        grad_f, grad_r, eps, grad, partial, arrived, norm, eps_next, shrunk, N, tiles, float(sigma), float(gamma),
    )  # fmt: skip
    return grad, norm, eps_next, shrunk
