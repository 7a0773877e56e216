"""Small models, methods, images and problems that several tests use."""

import math

import torch
from torch import Tensor
from torch.nn.functional import conv2d
from utils import numbers

from fastrecon import masks
from fastrecon.models import BlockSensingModel
from fastrecon.models.sparse_coding import PatchDenoiser, SparseCoder
from fastrecon.networks.unet import StepNet
from fastrecon.operators import BlockSensing, Blur, Fourier, Inpainting, Wavelet, gaussian_kernel, random_phi
from fastrecon.ops import fan_rays, parallel_rays
from fastrecon.solvers import DLADMM, FISTA, ISTA, LADMM, LDA, SGP, AGDNet, ErrorControlled, GDNet
from fastrecon.terms import Lp
from fastrecon.terms.feature_norm import FeatureNorm

BLOCK, M = 5, 10  # of small_model: the side of a block, and its measurements
LAM = 0.3  # of dladmm_problem
GEOMETRIES = ["parallel", "flat", "curved"]


def small_model(kind=LDA, blockwise=False, seed=0, meta=None):
    """A method of two phases on images sampled block by block, with the start from made-up statistics."""
    torch.manual_seed(seed)
    operator = BlockSensing(random_phi(M, BLOCK**2, seed=3).float(), BLOCK)
    generator = torch.Generator().manual_seed(1)
    c = torch.randn(25, 25, generator=generator)
    c = c @ c.T + torch.eye(25)
    phi = operator.phi
    q = c @ phi.T @ torch.linalg.inv(phi @ c @ phi.T)
    facts = {"ratio": 40, "name": "small", "phi_seed": 3} if meta is None else meta
    return BlockSensingModel(operator, kind(operator, 2, channels=4, layers=2), q, facts, blockwise=blockwise)


def images(count=2, size=(13, 9)):
    """Random images, [count, 1, H, W] on [0, 1]."""
    return torch.rand(count, 1, *size, generator=torch.Generator().manual_seed(2))


def cosines(side=4, atoms=24):
    """An overcomplete dictionary of smooth patches, the constant first."""
    t = torch.arange(side, dtype=torch.float64) + 0.5
    waves = torch.stack([torch.cos(torch.pi * f * t / side) for f in torch.linspace(0, 2, 5)])
    found = torch.einsum("ai,bj->abij", waves, waves).flatten(2).flatten(0, 1)[:atoms]
    return (found / found.norm(dim=1, keepdim=True)).T.contiguous().float()


def small_coder(kind=PatchDenoiser, **options):
    """D-LADMM of four layers, untrained, on the patches of `cosines`."""
    torch.manual_seed(0)
    solver = DLADMM(cosines(), 0.4, layers=4, noise=0.05, **options)
    return kind(solver, {"name": "small"}).eval()


def smooth(h=30, w=41):
    """One smooth image, [1, 1, h, w] on [0.2, 0.8]."""
    rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    return (0.5 + 0.3 * torch.sin(rows / 9) * torch.cos(columns / 7))[None, None]


def dictionary(m=30, d=12, dtype=torch.float64):
    """Atoms of unit length, [m, d]."""
    a = numbers(m, d, dtype=torch.float64)
    return (a / a.norm(dim=0)).to(dtype)


def general_b(m=30, p=36):
    """Rows that are almost orthogonal: a right inverse without large numbers."""
    q = torch.linalg.qr(numbers(p, m, seed=7))[0].T
    return q * torch.linspace(0.9, 1.1, m, dtype=torch.float64)[:, None]


def samples(a, n=4, seed=1, b=None):
    """Sparse codes and sparse errors."""
    generator = torch.Generator().manual_seed(seed)
    b = torch.eye(len(a), dtype=torch.float64) if b is None else b
    z, e = (torch.randn(n, t.shape[1], generator=generator, dtype=torch.float64) for t in (a, b))
    rare = [torch.rand(t.shape, generator=generator) < 0.15 for t in (z, e)]
    return ((z * rare[0]) @ a.double().T + (e * rare[1]) @ b.double().T).to(a.dtype)


def dladmm_problem(e_update="residual", with_b=False, dtype=torch.float64, **options):
    """D-LADMM as built, the LADMM that it unrolls, and samples."""
    a = dictionary(dtype=dtype)
    b = general_b().to(dtype) if with_b else None
    torch.manual_seed(0)
    network = DLADMM(a, LAM, b, e_update=e_update, **({"layers": 6} | options))
    return network, LADMM(a, LAM, b, e_update=e_update), samples(a, b=b)


def spoil(network, amount):
    """Moves all weights at random."""
    with torch.no_grad():
        for p in network.parameters():
            p += amount * torch.randn_like(p)


def scene(side=32, count=2, dtype=torch.float64):
    """Smooth images with edges, [count, 1, side, side] on [0, 1]."""
    t = torch.linspace(0, 1, side, dtype=dtype)
    x = torch.stack([(3 * t[:, None] + (k + 1) * t).sin().abs() + (t[:, None] > t + 0.2 * k) for k in range(count)])
    return x[:, None] / 2


def kkt(x, a, y, lam):
    """The largest violation of 0 in grad f(x) + lam d|x|, over lam."""
    g = a.adjoint(a(x) - y)
    on, off = (g + lam * x.sgn()).abs() * (x != 0), (g.abs() - lam).clamp_min(0) * (x == 0)
    return ((on + off).amax() / lam).item()


def bold(x, grad):
    """Twice the safe step, as a trained network often says."""
    return torch.full((len(x),), 1.9, device=x.device)


METHODS = {
    "ista": lambda a, lam: ISTA(a, lam),
    "ista-backtracking": lambda a, lam: ISTA(a, lam, rule="backtracking"),
    "fista": lambda a, lam: FISTA(a, lam),
    "fista-backtracking": lambda a, lam: FISTA(a, lam, rule="backtracking"),
    "sgp": lambda a, lam: SGP(a, lam),
    "sgp-network": lambda a, lam: SGP(a, lam, network=bold),
}


def printed_feature_norm(net: FeatureNorm, x: Tensor, eps: Tensor) -> Tensor:
    """r_eps as eqs. (9) and (33) print it, up to the missing square of eq. (25)."""
    h = x
    for k, w in enumerate(net.weights, 1):
        h = conv2d(h, w, padding=1)
        if k < len(net.weights) or net.final_activation:
            d = net.delta
            h = torch.where(h <= -d, 0, torch.where(h < d, h**2 / (4 * d) + h / 2 + d / 4, h))
    norm = torch.sqrt((h**2).sum(1))
    e = eps[:, None, None]
    return torch.where(norm <= e, norm**2 / (2 * e), norm - e / 2).sum((1, 2))


def rays_of(geometry, size, views, detectors, spacing, pixel=1.0):
    """Views over a full turn, so that rays run in every direction."""
    angles = torch.arange(views, dtype=torch.float64) * (2 * math.pi / views) + 0.1
    if geometry == "parallel":
        return parallel_rays(size, angles, detectors, spacing, pixel)
    far = 0.9 * math.hypot(*size) * pixel + 1
    return fan_rays(size, angles, detectors, 1.6 * spacing, far, 0.6 * far, geometry == "curved", pixel)


def proximal_case(method, kind="inpainting", **options):
    """A solver on coefficients of the Haar wavelet, measurements, options."""
    w = Wavelet("haar", 2).T
    if kind == "inpainting":
        a = Inpainting(torch.stack([masks.uniform((16, 16), 0.5, s) for s in (0, 1)])[:, None]) @ w
    elif kind == "fourier":
        a = Fourier(masks.uniform((16, 16), 0.5, 0)) @ w
    else:
        a = Blur(gaussian_kernel(3, 1.0)) @ w
    solver = method(a, 0.1, 1.0, **options)
    return solver, a(images(2, (16, 16))).detach(), {"iterations": 3, "history": True}


def learned_case(kind=LDA, blockwise=False, safeguard=False):
    """A small model, measurements, options."""
    r, options = small_model(kind, blockwise), {} if blockwise else {"history": True}
    r.solver.safeguard = safeguard
    return r, r.operator(images()).detach(), {"size": (13, 9)} | options


def controlled_case():
    """Error-controlled iterations, measurements, options."""
    a, size = Fourier(masks.uniform((16, 16), 0.5, 0)), (16, 16)
    solver = ErrorControlled(a, Lp(0.01, 0.8, Wavelet("haar", 2)), lambda x: 0.9 * x, rho=0.1, norm=1.0)
    return solver, a(images(2, size)).detach(), {"iterations": 3, "tol": 0, "history": True}


# What computes by itself: (module, measurements, options) of one of every kind
CASES = {
    "lda": learned_case,
    "lda-blockwise": lambda: learned_case(blockwise=True),
    "lda-safeguarded": lambda: learned_case(safeguard=True),
    "gd-net": lambda: learned_case(GDNet),
    "agd-net": lambda: learned_case(AGDNet),
    "ista": lambda: proximal_case(ISTA),
    "ista-backtracking": lambda: proximal_case(ISTA, rule="backtracking"),
    "fista": lambda: proximal_case(FISTA, "fourier"),
    "fista-backtracking": lambda: proximal_case(FISTA, rule="backtracking"),
    "sgp": lambda: proximal_case(SGP, "blur"),
    "sgp-network": lambda: proximal_case(SGP, "blur", network=bold),
    "sgp-unet": lambda: proximal_case(SGP, "blur", network=StepNet(width=2, iterations=2)),
    "sgp-bonettini": lambda: proximal_case(SGP, network=bold, bonettini=True),
    "sgp-paper": lambda: proximal_case(SGP, network=bold, rule="paper"),
    "error-controlled": controlled_case,
    "d-ladmm": lambda: (small_coder(SparseCoder), torch.rand(3, 16), {"history": True}),
    "d-ladmm-safeguarded": lambda: (small_coder(SparseCoder), torch.rand(3, 16), {"safeguard": True}),
    "d-ladmm-patches": lambda: (small_coder(), smooth(), {}),
}
