"""Trained D-LADMM as a model: sparse codes of vectors, or images freed from salt-and-pepper noise patch by patch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from fastrecon.certificates import Result, SplittingReport, answer
from fastrecon.checks import expect, expect_finite
from fastrecon.models import file as model_file
from fastrecon.operators import Dictionary
from fastrecon.solvers import DLADMM
from fastrecon.solvers.ladmm import Splitting

METHOD = "d-ladmm"


class SparseCoder(nn.Module):
    """D-LADMM: data [B, m] to codes [B, d], with the certificate of every sample.

    Args:
        solver: D-LADMM with B = I.
        meta: facts to keep with the model: `task`, `name`, `training`.
    """

    independent = True  # no result depends on the others of its batch: batches may be cut and filled up

    def __init__(self, solver: DLADMM, meta: dict[str, Any]):
        super().__init__()
        expect(solver.b is None, type(self).__name__, "solver", "a DLADMM with B = I", "a general B")
        self.solver, self.meta = solver, dict(meta)

    @property
    def operator(self) -> Dictionary:
        """A."""
        return self.solver.a

    def forward(self, y: Any, rigorous: bool = False, **options: Any) -> Result:
        """Codes z of y ~ A z + sparse errors.

        Args:
            y: [B, m], a tensor on the model's device or an array; computed in the model's precision.
            rigorous: whether to continue from the learned layers, each safeguarded, until the duality gap is small
                (DLADMM.solve).
            options: of DLADMM.forward, or of DLADMM.solve.

        Raises:
            ValueError: y does not fit, or holds NaN or Inf.
        """
        return answer(self, y, rigorous=rigorous, **options)

    @torch.no_grad()
    def compute(self, y: Tensor, rigorous: bool = False, **options: Any) -> tuple[Tensor, SplittingReport]:
        """As `forward` for data that passed `check`. Unless rigorous, the host never waits for the device."""
        s, report = self._solve(y.to(self.operator.atoms.dtype), rigorous, options)
        return s.z, report

    def capturable(self, rigorous: bool = False, **options: Any) -> bool:
        """Whether `compute` with these options may become a CUDA graph: it asks the host nothing."""
        return not rigorous

    def _solve(self, x: Tensor, rigorous: bool, options: dict[str, Any]) -> tuple[Splitting, SplittingReport]:
        return self.solver.solve(x, **options) if rigorous else self.solver(x, **options)

    def check(self, y: Tensor, anywhere: bool = False) -> None:
        """Looks at data, on the model's device or `anywhere`.

        Raises:
            ValueError: they have another shape, type or device, NaN or Inf.
        """
        shape = self._shape()
        expect(y.ndim == len(shape.split(",")) and y.is_floating_point(), "restore", "y", f"real {shape}", y)
        device = self.operator.atoms.device
        expect(anywhere or y.device == device, "restore", "y", f"a tensor on {device}", f"one on {y.device}")
        expect_finite(y, "restore", "finite values", "sample")

    def _shape(self) -> str:
        return f"[B, {self.operator.atoms.shape[0]}]"

    def save(self, path: str | Path, half: bool = False) -> None:
        """Writes weights and metadata as one safetensors file; it appears complete or not at all.

        Args:
            path: of the file.
            half: whether matrices are stored as float16.
        """
        meta = self.meta | {"hyperparameters": self.solver.hyperparameters()}
        tensors = {k: v for k, v in self.solver.state_dict().items() if not k.startswith("classical.")}
        if half:
            tensors = {k: v.half() if min(v.shape) > self.solver.layers else v for k, v in tensors.items()}
        model_file.write(path, METHOD, tensors, meta)


class PatchDenoiser(SparseCoder):
    """Removes salt-and-pepper noise from images by non-overlapping patches: x = A z, where y = A z + e, both sparse.

    Args:
        solver: D-LADMM of a dictionary of patches with side * side pixels, row-major.
        meta: see SparseCoder.
    """

    def __init__(self, solver: DLADMM, meta: dict[str, Any]):
        super().__init__(solver, meta)
        pixels = self.operator.atoms.shape[0]
        self.side = round(pixels**0.5)
        expect(self.side**2 == pixels, "PatchDenoiser", "solver", "a dictionary of square patches", f"{pixels} pixels")

    def forward(self, y: Any, rigorous: bool = False, **options: Any) -> Result:
        """Restores noisy images y [B, 1, H, W] of any size; rigorous and options as SparseCoder.

        Raises:
            ValueError: y is no batch of grey images, or holds NaN or Inf.
        """
        return answer(self, y, rigorous=rigorous, **options)

    @torch.no_grad()
    def compute(self, y: Tensor, rigorous: bool = False, **options: Any) -> tuple[Tensor, SplittingReport]:
        """As `forward` for images that passed `check`. Unless rigorous, the host never waits for the device."""
        patches = self.to_patches(y.to(self.operator.atoms.dtype))
        s, report = self._solve(patches, rigorous, options)
        return self.to_image(s.az, y.shape[-2:]), report.merged(len(patches) // len(y))

    def to_patches(self, y: Tensor) -> Tensor:
        """Patches [B * count, side * side] of images [B, 1, H, W], edges repeated up to whole patches."""
        b, (h, w) = self.side, y.shape[-2:]
        y = pad(y, (0, -w % b, 0, -h % b), mode="replicate")
        return y.reshape(-1, y.shape[-2] // b, b, y.shape[-1] // b, b).transpose(2, 3).reshape(-1, b * b)

    def to_image(self, patches: Tensor, size: Sequence[int]) -> Tensor:
        """Images [B, 1, H, W] of this size from their patches."""
        b, (h, w) = self.side, size
        rows, cols = -(-h // b), -(-w // b)
        image = patches.reshape(-1, rows, cols, b, b).transpose(2, 3).reshape(-1, 1, rows * b, cols * b)
        return image[..., :h, :w].contiguous()

    def check(self, y: Tensor, anywhere: bool = False) -> None:
        """As of SparseCoder."""
        super().check(y, anywhere)
        fits = y.shape[1] == 1 and all(n > 0 for n in y.shape[1:])
        expect(fits, "restore", "y", f"images {self._shape()}", y)

    def _shape(self) -> str:
        return "[B, 1, H, W]"


def rebuild(meta: dict[str, Any], tensors: dict[str, Tensor]) -> SparseCoder:
    """The model of a file's metadata and tensors, in evaluation mode.

    Raises:
        KeyError, TypeError, RuntimeError: something is missing or does not fit.
    """
    tensors = {k: v.float() if v.dtype == torch.float16 else v for k, v in tensors.items()}
    solver = DLADMM(Dictionary(tensors["a.atoms"]), **meta["hyperparameters"])
    solver = solver.to(tensors["a.atoms"].dtype)
    found = solver.load_state_dict(tensors, strict=False)
    missing = [k for k in found.missing_keys if not k.startswith("classical.")]
    if missing or found.unexpected_keys:
        raise RuntimeError(f"parameters missing: {missing}, unknown: {found.unexpected_keys}")
    kept = {k: v for k, v in meta.items() if k not in ("hyperparameters", "method")}
    kind = PatchDenoiser if meta["task"] == "salt-and-pepper" else SparseCoder
    return kind(solver, kept).eval()
