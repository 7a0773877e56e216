"""Denoisers of other people: stacks of convolutions in .pth, .npz and .safetensors files, such as DnCNN and FFDNet.

A file holds the weights of each convolution [out, in, k, k] in the order in which they are applied, with their biases
and, where there are any, the statistics of batch normalisation; ReLU stands between. What the network takes and answers
shows in the shapes and in a try: see `Stack`.
"""

import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load as from_bytes
from torch import Tensor, nn
from torch.nn.functional import conv2d, pixel_shuffle, pixel_unshuffle, relu

from fastrecon import io
from fastrecon.checks import expect
from fastrecon.modules.denoisers import by_parts

SUFFIXES = (".pth", ".pt", ".npz", ".safetensors")
LIKELY = 25 / 255  # noise of the try


class Stack(nn.Module):
    """Convolutions with ReLU between them as a denoiser.

    First and last shapes tell the form: [., c] to [c, .] takes images; [., c + 1] with their noise as one more channel,
    on the scale of the image; [., 4 c + 1] to [4 c, .] the same of squares of 2 x 2 pixels (FFDNet). Whether it answers
    the image or the noise, a try with noise on a ramp tells.

    Args:
        weights: [out, in, k, k] each.
        biases: [out] each, or None.

    Raises:
        ValueError: the shapes do not follow one on the other, or are of no such form.
    """

    range = (0.0, 1.0)

    def __init__(self, weights: list[Tensor], biases: list[Tensor | None]):
        super().__init__()
        op = "checkpoint"
        expect(len(weights) > 1, op, "weights", "two convolutions at least", len(weights))
        for a, b in itertools.pairwise(weights):
            expect(a.shape[0] == b.shape[1], op, "weights", f"one with {a.shape[0]} inputs to follow", tuple(b.shape))
        takes, gives = weights[0].shape[1], weights[-1].shape[0]
        self.factor = 2 if takes == gives + 1 and gives % 4 == 0 else 1
        self.levels = takes == gives + 1
        self.channels = gives // self.factor**2
        fits = takes in (gives, gives + 1) and all(w.shape[-1] % 2 for w in weights)
        expect(fits, op, "weights", "as many outputs as inputs, or one more input, the noise", f"{takes} to {gives}")
        self.weights = nn.ParameterList(nn.Parameter(w, requires_grad=False) for w in weights)
        for i, b in enumerate(biases):
            parameter = None if b is None else nn.Parameter(b, requires_grad=False)
            self.register_parameter(f"bias{i}", parameter)
        self.subtracts = self._answers_noise()

    @property
    def settings(self) -> dict[str, Any]:
        """Channels of the images."""
        return {"in_channels": self.channels}

    @torch.no_grad()
    def _answers_noise(self) -> bool:
        ramp = torch.linspace(0.2, 0.8, 32).view(1, 1, 1, -1).expand(1, self.channels, 32, 32)
        noise = LIKELY * torch.randn(ramp.shape, generator=torch.Generator().manual_seed(0))
        found = self._output(ramp + noise, LIKELY)
        return bool((found - noise).square().mean() < (found - ramp).square().mean())

    def _output(self, x: Tensor, sigma: float) -> Tensor:
        if self.factor > 1:
            x = pixel_unshuffle(x, self.factor)
        if self.levels:
            x = torch.cat((x, torch.full_like(x[:, :1], sigma)), 1)
        last = len(self.weights) - 1
        for i, w in enumerate(self.weights):
            bias = getattr(self, f"bias{i}")
            x = conv2d(x, w.to(x), None if bias is None else bias.to(x), padding=w.shape[-1] // 2)
            x = relu(x) if i < last else x
        return pixel_shuffle(x, self.factor) if self.factor > 1 else x

    def forward(self, x: Tensor, sigma: float = LIKELY) -> Tensor:
        """Cleaned images; of complex ones part by part, of several channels as it was made for."""

        def one(v: Tensor) -> Tensor:
            h, w = v.shape[-2:]
            whole = nn.functional.pad(v, (0, -w % self.factor, 0, -h % self.factor), mode="replicate")
            found = self._output(whole, sigma)[..., :h, :w]
            return v - found if self.subtracts else found

        return by_parts(one, x, self.channels)


def read(path: Path) -> Stack:
    """The denoiser that a file holds.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is damaged, or holds no stack of convolutions.
    """
    io.existing(path)
    expect(path.suffix.lower() in SUFFIXES, "checkpoint", io.shown(path), f"one of {', '.join(SUFFIXES)}", path.suffix)
    try:
        tensors = _tensors(path)
    except Exception as e:  # readers raise whatever a damaged file makes them trip over
        raise ValueError(f"checkpoint: {io.shown(path)}: expected weights, got {io.reason(e)}") from e
    found = _convolutions(tensors)
    known = ", ".join(list(tensors)[:4])
    what = "a stack of convolutions alone, weights [out, in, k, k] and biases"
    expect(found is not None, "checkpoint", io.shown(path), what, f"tensors {known}, ...")
    assert found is not None
    return Stack(*found).eval()


def _tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file by name, in its order."""
    suffix = path.suffix.lower()
    if suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            return {k: torch.from_numpy(file[k]).float() for k in file.files}
    if suffix == ".safetensors":
        given: Any = dict(sorted(from_bytes(path.read_bytes()).items(), key=_natural))  # such files keep no order
    else:
        given = torch.load(path, map_location="cpu", weights_only=True)
        for name in ("state_dict", "params", "model"):
            given = given[name] if isinstance(given.get(name), Mapping) else given
    return {k: v.float() for k, v in given.items() if isinstance(v, Tensor)}


def _natural(item: tuple[str, Tensor]) -> list[tuple[int, str]]:
    """A key that puts body.2 before body.10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", item[0])]


def _convolutions(tensors: Mapping[str, Tensor]) -> tuple[list[Tensor], list[Tensor | None]] | None:
    """Weights and biases in order, normalisation multiplied in; None where there is anything else."""
    weights: list[Tensor] = []
    biases: list[Tensor | None] = []
    used: set[str] = set()
    names = list(tensors)
    for name in names:
        w = tensors[name]
        if w.ndim == 4:
            other = _beside(name)
            weights.append(w)
            biases.append(tensors.get(other))
            used |= {name, other}
        elif name.endswith("running_mean") and weights:
            stem = name.removesuffix("running_mean")
            parts = [tensors.get(stem + n) for n in ("weight", "bias", "running_mean", "running_var")]
            if any(p is None for p in parts) or parts[0].shape != weights[-1].shape[:1]:  # type: ignore[union-attr]
                return None
            gain, shift, mean, var = (p.double() for p in parts if p is not None)
            scale = gain / (var + 1e-5).sqrt()
            old = torch.zeros_like(mean) if biases[-1] is None else biases[-1].double()  # type: ignore[union-attr]
            weights[-1] = (weights[-1].double() * scale.view(-1, 1, 1, 1)).float()
            biases[-1] = (shift + (old - mean) * scale).float()
            used |= {stem + n for n in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")}
    if len(weights) < 2 or set(names) - used:
        return None
    return weights, biases


def _beside(name: str) -> str:
    """The bias that belongs to a weight of this name: body.0.weight and body.0.bias, w07 and b07."""
    if name.endswith("weight"):
        return name.removesuffix("weight") + "bias"
    return "b" + name[1:] if name.startswith("w") else name + ".bias"
