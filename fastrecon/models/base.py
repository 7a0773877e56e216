"""Trained models: measurements in, images with their certificates out; saved as safetensors."""

import math
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastrecon import io
from fastrecon.certificates import Report, Result, answer
from fastrecon.checks import expect, expect_finite, flag, named, size_2d
from fastrecon.models import file as model_file
from fastrecon.models import sgp as step_models
from fastrecon.models import sparse_coding as sparse
from fastrecon.operators import BlockSensing, random_phi
from fastrecon.operators.block_sensing import product_per_image
from fastrecon.solvers import LDA, AGDNet, GDNet
from fastrecon.solvers.descent import UnrolledDescent

METHODS: dict[str, type[UnrolledDescent]] = {"lda": LDA, "gd-net": GDNet, "agd-net": AGDNet}


class Reconstructor(nn.Module):
    """A trained method for one sampling matrix: x0 = Q y for every block, then the solver.

    Args:
        operator: the sampling A; it must be the solver's.
        solver: LDA, GDNet or AGDNet.
        q: least-squares start [block * block, m], A Q = I.
        meta: facts to keep with the model: `task`, `ratio`, `name`, `training`, and `phi_seed` if random_phi made Phi.
        blockwise: whether every block is an image of its own, as in the paper; else the regulariser sees the whole
            image, which leaves no block edges.
    """

    q: Tensor

    def __init__(self, operator: BlockSensing, solver: Any, q: Tensor, meta: dict[str, Any], blockwise: bool = False):
        super().__init__()
        n, m = operator.phi.shape[::-1]
        expect(q.shape == (n, m), "Reconstructor", "q", f"a matrix ({n}, {m})", q)
        expect(
            solver.fidelity.operator is operator, "Reconstructor", "operator", "the operator of the solver", "another"
        )
        self.operator, self.solver, self.blockwise = operator, solver, blockwise
        self.register_buffer("q", q)
        self.meta = dict(meta)

    def start(self, y: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """x0 [B, 1, H, W] from y [B, rows, cols, m], cropped to `size`."""
        return self.operator.to_image(product_per_image(y, self.q.T), size)

    def forward(self, y: Any, size: tuple[int, int] | None = None, rigorous: bool = False, **options: Any) -> Result:
        """Reconstructs images from their measurements.

        Args:
            y: [B, rows, cols, m], a tensor on the model's device or an array; computed in the model's precision.
            size: (H, W) of the images, to which the last blocks are cropped; else whole blocks.
            rigorous: whether to continue from the trained phases to convergence (LDA.solve, balanced).
            options: of LDA.solve, or `history` and `progress` of the trained phases.

        Raises:
            ValueError: y has another number of measurements per block, another device, NaN or Inf; size does not fit;
                the method has no rigorous mode.
        """
        return answer(self, y, size=size, rigorous=rigorous, **options)

    @torch.no_grad()
    def compute(
        self, y: Tensor, size: tuple[int, int] | None = None, rigorous: bool = False, **options: Any
    ) -> tuple[Tensor, Report]:
        """As `forward` for measurements that passed `check`. Unless rigorous, the host never waits for the device."""
        rigorous, size = flag(rigorous, "reconstruct", "rigorous"), size and size_2d(size, "reconstruct", "size")
        able = not rigorous or hasattr(self.solver, "solve")
        expect(
            able, "reconstruct", "rigorous", "a method with a convergence guarantee (LDA)", type(self.solver).__name__
        )
        return (self._blocks if self.blockwise else self._image)(y.to(self.q.dtype), size, rigorous, options)

    @property
    def independent(self) -> bool:
        """Whether no result depends on the others of its batch, so that batches may be cut and filled up."""
        return self.solver.eps_mode != "batch"

    def capturable(self, rigorous: bool = False, **options: Any) -> bool:
        """Whether `compute` with these options may become a CUDA graph: it asks the host nothing."""
        return not rigorous and options.get("progress") is None

    def _image(self, y: Tensor, size: Any, rigorous: bool, options: dict[str, Any]) -> tuple[Tensor, Report]:
        x0 = self.start(y, size)
        if not rigorous:
            return self.solver(y, x0, **options)
        return self.solver.solve(y, x0, **{"balance": not self.solver.regulariser.final_activation} | options)

    def _blocks(self, y: Tensor, size: Any, rigorous: bool, options: dict[str, Any]) -> tuple[Tensor, Report]:
        count, rows, cols, m = y.shape
        x, report = self._image(y.reshape(-1, 1, 1, m), None, rigorous, options)
        return self.operator.to_image(x.reshape(count, rows, cols, -1), size), report.merged(rows * cols)

    def check(self, y: Tensor, anywhere: bool = False) -> None:
        """Looks at measurements, on the model's device or `anywhere`.

        Raises:
            ValueError: they have another shape, type or device, NaN or Inf.
        """
        m = self.q.shape[1]
        expect(
            y.ndim == 4 and y.is_floating_point(),
            "reconstruct",
            "y",
            f"real measurements [B, rows, cols, {m}]",
            y,
        )
        ratio = f" (ratio {self.meta['ratio']:g}%)" if "ratio" in self.meta else ""
        got = f"{y.shape[3]} ({100 * y.shape[3] / len(self.q):.0f}% of the {len(self.q)} pixels)"
        expect(y.shape[1] * y.shape[2] > 0, "reconstruct", "y", "at least one block an image", y)
        expect(y.shape[3] == m, "reconstruct", "y", f"{m} measurements per block{ratio}", got)
        here = anywhere or y.device == self.q.device
        expect(here, "reconstruct", "y", f"a tensor on {self.q.device}", f"one on {y.device}")
        expect_finite(y, "reconstruct", "finite measurements", "image")

    def save(self, path: str | Path) -> None:
        """Writes weights, start and metadata as one safetensors file; it appears complete or not at all.

        A sampling matrix that `random_phi(m, n, meta["phi_seed"])` makes is left out and made again by `load`.
        """
        names = {kind: name for name, kind in METHODS.items()}
        meta = self.meta | self.solver.hyperparameters()
        meta |= {"block": self.operator.block, "blockwise": self.blockwise}
        tensors = {k: v for k, v in self.solver.state_dict().items() if not k.startswith("fidelity.")} | {"q": self.q}
        phi, seed = self.operator.phi.detach(), meta.get("phi_seed")
        if seed is None or not torch.equal(random_phi(phi.shape[0], phi.shape[1], seed).to(phi), phi):
            tensors["phi"] = phi
        else:
            meta["phi_sample"] = _sample(phi)
        model_file.write(path, names[type(self.solver)], tensors, meta)


def _sample(phi: Tensor) -> list[float]:
    """A few entries that tell whether a matrix made from its seed is the one of the training."""
    return phi.flatten()[:: max(1, phi.numel() // 7)].tolist()


def pretrained() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(p.name.removesuffix(".safetensors") for p in _shipped().iterdir() if p.name.endswith(".safetensors"))


def _shipped() -> Any:
    return resources.files("fastrecon.weights")


def load(name: str | Path) -> Any:
    """The model of that name (see `pretrained`), or of that file, on the CPU in evaluation mode.

    By what the file holds it is a Reconstructor, a sparse.SparseCoder, a sparse.PatchDenoiser, a network for
    solvers.SGP or a direct U-Net; `meta` has its facts.

    Raises:
        FileNotFoundError: no such file.
        ValueError: unknown name, or a damaged or foreign file.
    """
    expect(isinstance(name, str | Path), "load", "name", "a name or a path", named(name))
    if str(name) in pretrained():
        with resources.as_file(_shipped() / f"{name}.safetensors") as path:
            return _read(path)
    is_path = isinstance(name, Path) or name.endswith(".safetensors") or Path(name).exists()
    expect(
        is_path,
        "load",
        "name",
        f"one of {', '.join(pretrained()) or '(none shipped)'} or a .safetensors file",
        repr(name),
    )
    return _read(io.existing(name))


def _read(path: Path) -> Any:
    meta, tensors = model_file.read(path)
    try:
        return _builder(meta["method"])(meta, tensors)
    except Exception as e:  # whatever settings or tensors that do not fit make the parts trip over
        reason = f"{type(e).__name__}: {io.reason(e)}"
        raise ValueError(f"load: {io.shown(path)}: expected a complete model, got a damaged file ({reason})") from e


def _builder(method: str) -> Callable[[dict[str, Any], dict[str, Tensor]], Any]:
    if method == sparse.METHOD:
        return sparse.rebuild
    return step_models.rebuild if method in step_models.METHODS else _rebuild


def _rebuild(meta: dict[str, Any], tensors: dict[str, Tensor]) -> Reconstructor:
    method, q = METHODS[meta["method"]], tensors.pop("q")
    phi = tensors.pop("phi", None)
    if phi is None:
        phi = random_phi(q.shape[1], q.shape[0], meta["phi_seed"]).to(q)
        same = all(math.isclose(a, b, abs_tol=1e-5) for a, b in zip(_sample(phi), meta.pop("phi_sample"), strict=True))
        if not same:
            raise RuntimeError(f"the sampling matrix of seed {meta['phi_seed']} comes out differently on this machine")
    operator = BlockSensing(phi, meta["block"])
    names = method(operator, phases=1).hyperparameters()
    solver = method(operator, **{k: meta[k] for k in names}).to(q.dtype)
    found = solver.load_state_dict(tensors, strict=False)
    missing = [k for k in found.missing_keys if not k.startswith("fidelity.")]
    if missing or found.unexpected_keys:
        raise RuntimeError(f"parameters missing: {missing}, unknown: {found.unexpected_keys}")
    kept = {k: v for k, v in meta.items() if k not in {*names, "method", "block", "blockwise"}}
    return Reconstructor(operator, solver, q, kept, meta["blockwise"]).eval()
