"""The wavelet transform and its inverse: sym4, 3 levels, against PyWavelets, ptwt and convolutions in eager PyTorch."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d, conv_transpose2d, pad
from utils import DEVICES, GRAPHS, error, finished, numbers

from fastrecon.ops import dwt2, idwt2
from fastrecon.ops.dwt2 import dwt2_ref, highpass
from fastrecon.ops.wavelets import lowpass

WAVELET, LEVEL = "sym4", 3


def kernels(device: str) -> Tensor:
    """The four products of both filters [4, 1, L, L]."""
    f = [torch.tensor(t, dtype=torch.float32) for t in (lowpass(WAVELET), highpass(lowpass(WAVELET)))]
    return torch.stack([torch.outer(v, h) for v in f for h in f])[:, None].to(device)


KERNELS = {d: kernels(d) for d in ("cpu", "cuda") if d == "cpu" or torch.cuda.is_available()}


def eager(x: Tensor) -> Tensor:
    """A strided convolution per level, as people write it."""
    k, c = KERNELS[x.device.type], x.clone()
    side = k.shape[-1]
    before, after = side // 2 - 1, side // 2 - 1
    block = x
    for scale in range(LEVEL):
        a = conv2d(pad(block, (before, after, before, after), mode="circular"), k, stride=2)
        h, w = x.shape[2] >> (scale + 1), x.shape[3] >> (scale + 1)
        c[..., : 2 * h, : 2 * w] = a.view(-1, 1, 2, 2, h, w).permute(0, 1, 2, 4, 3, 5).reshape(-1, 1, 2 * h, 2 * w)
        block = a[:, :1]
    return c


def eager_inverse(c: Tensor) -> Tensor:
    k, x = KERNELS[c.device.type], c.clone()
    s = k.shape[-1] // 2 - 1
    for scale in reversed(range(LEVEL)):
        h, w = c.shape[2] >> scale, c.shape[3] >> scale
        bands = x[..., :h, :w].reshape(-1, 2, h // 2, 2, w // 2).permute(0, 1, 3, 2, 4).reshape(-1, 4, h // 2, w // 2)
        wide = conv_transpose2d(bands, k, stride=2)  # each side overlaps the other by L - 2
        wide[..., : wide.shape[2] - h, :] += wide[..., h:, :]
        wide[..., : wide.shape[3] - w] += wide[..., w:]
        x[..., :h, :w] = wide[..., :h, :w].roll((-s, -s), (2, 3))
    return x


def pywavelets(x: Tensor) -> Tensor:
    import pywt

    c = pywt.wavedec2(x[:, 0].numpy(), WAVELET, "periodization", LEVEL, axes=(1, 2))
    return torch.from_numpy(pywt.coeffs_to_array(c, axes=(1, 2))[0])[:, None]


def pywavelets_inverse(c: Tensor) -> Tensor:
    import pywt

    slices, h, w = [], c.shape[2] >> LEVEL, c.shape[3] >> LEVEL
    slices.append(c[:, 0, :h, :w].numpy())
    for scale in reversed(range(LEVEL)):
        h, w = c.shape[2] >> (scale + 1), c.shape[3] >> (scale + 1)
        rows, columns = (slice(0, h), slice(h, 2 * h)), (slice(0, w), slice(w, 2 * w))
        bands = ((rows[1], columns[0]), (rows[0], columns[1]), (rows[1], columns[1]))
        slices.append(tuple(c[:, 0, r, s].numpy() for r, s in bands))
    return torch.from_numpy(np.asarray(pywt.waverec2(slices, WAVELET, "periodization", axes=(1, 2))))[:, None]


def ptwt(x: Tensor) -> Tensor:
    """Another boundary rule (it knows no periodization), the same work: not compared, only timed."""
    package = pytest.importorskip("ptwt", reason="ptwt is not installed")
    return package.wavedec2(x, WAVELET, mode="periodic", level=LEVEL)


FORWARD = {"eager": eager, "pywavelets": pywavelets, "ptwt": ptwt, "torch.compile": eager, "fastrecon": dwt2}
FORWARD |= dict(zip(GRAPHS, (eager, dwt2), strict=False))
INVERSE = {"eager": eager_inverse, "pywavelets": pywavelets_inverse, "torch.compile": eager_inverse, "fastrecon": idwt2}
INVERSE |= dict(zip(GRAPHS, (eager_inverse, idwt2), strict=False))
SHAPES = [(1, 1, 256, 256), (16, 1, 256, 256), (1, 1, 1024, 1024)]


def time(benchmark, implementation, function, x, exact):
    if x.is_cuda and implementation == "pywavelets":
        pytest.skip("PyWavelets runs on the CPU only")
    if implementation == "torch.compile":
        function = torch.compile(function, dynamic=False)
    run = finished(partial(function, x), implementation, x.device.type)
    if implementation != "ptwt":
        assert error([run()], [exact]) < 1e-6  # no timing of wrong answers
    benchmark.pedantic(run, rounds=15, warmup_rounds=3)
    benchmark.extra_info.update(op="dwt2", dtype="float32", bytes=2 * x.nbytes)


@pytest.mark.parametrize("implementation", FORWARD)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("device", DEVICES)
def bench_transform(benchmark, implementation, shape, device):
    x = numbers(*shape, device=device, dtype=torch.float32)
    exact = dwt2_ref(x.flatten(0, 1).double(), lowpass(WAVELET), LEVEL).view(shape)
    time(benchmark, implementation, FORWARD[implementation], x, exact)


@pytest.mark.parametrize("implementation", INVERSE)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("device", DEVICES)
def bench_inverse(benchmark, implementation, shape, device):
    x = numbers(*shape, device=device, dtype=torch.float32)
    c = dwt2_ref(x.flatten(0, 1).double(), lowpass(WAVELET), LEVEL).view(shape).float()
    time(benchmark, implementation, INVERSE[implementation], c, x.double())
