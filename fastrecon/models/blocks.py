"""What trained models of block compressed sensing share: sampling, the start x0 = Q y of every block, files."""

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fastrecon.certificates import Certificate
from fastrecon.checks import expect, expect_finite, size_2d
from fastrecon.models.base import Model
from fastrecon.models.file import Header
from fastrecon.operators.base import LinearOperator
from fastrecon.operators.block_sensing import BlockSensing, measurements, product_per_image, random_phi
from fastrecon.problems.block_cs import fingerprint, same_sampling
from fastrecon.solvers.methods import Inverse

SAME = 1e-5  # sampling matrices that differ by less are one, made on two machines


class BlockModel(Model):
    """A trained method for one sampling matrix.

    Args:
        method: its name.
        operator: the sampling A; it must be the solver's.
        solver: what computes images from y and x0, with `hyperparameters()` and the module `fidelity`.
        q: start [block * block, m], of least squares with A Q = I; an nn.Parameter is learned.
        meta: facts to keep with the model: `ratio`, `name`, `training`, and `phi_seed` if random_phi made Phi.
        blockwise: whether every block is an image of its own, as in the papers; else the network sees the whole image,
            which leaves no block edges.
    """

    problem = "block-cs"
    operator: BlockSensing
    solver: Any
    q: Tensor

    def __init__(
        self, method: str, operator: BlockSensing, solver: nn.Module, q: Tensor, meta: Mapping[str, Any],
        blockwise: bool = False,
    ):  # fmt: skip
        super().__init__(meta)
        n, m = operator.phi.shape[::-1]
        own, name = solver.fidelity.operator is operator, type(self).__name__  # type: ignore[union-attr]
        expect(q.shape == (n, m), name, "q", f"a matrix ({n}, {m})", q)
        expect(own, name, "operator", "the operator of the solver", "another")
        self.method = method
        self.operator = operator  # pyright: ignore[reportIncompatibleVariableOverride]  # nobody sets another kind
        self.solver, self.blockwise = solver, blockwise
        if isinstance(q, nn.Parameter):
            self.q = q
        else:
            self.register_buffer("q", q)

    def start(self, y: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """x0 [B, 1, H, W] from y [B, rows, cols, m], cropped to `size`."""
        return self.operator.to_image(product_per_image(y, self.q.T), size)

    @abstractmethod
    def image(self, y: Tensor, size: tuple[int, int] | None, options: dict[str, Any]) -> tuple[Tensor, Certificate]:
        """Images and certificates of y [B, rows, cols, m], each as one image whatever its blocks are."""

    def reconstructed(
        self, y: Tensor, operator: LinearOperator | None, size: Any, options: dict[str, Any]
    ) -> tuple[Tensor, Any]:
        """Images [B, 1, H, W] of measurements [B, rows, cols, m] of the model's operator, whole or block by block.

        Raises:
            ValueError: size or operator does not fit.
        """
        size = size and size_2d(size, "reconstruct", "size")
        if operator is not None and operator is not self.operator:
            expect(self.measures(operator), "reconstruct", "operator", "the model's own sampling matrix", "another")
        y = y.to(self.q.dtype)
        if not self.blockwise:
            return self.image(y, size, options)
        count, rows, cols, m = y.shape
        x, report = self.image(y.reshape(-1, 1, 1, m), None, options)
        return self.operator.to_image(x.reshape(count, rows, cols, -1), size), report.merged(rows * cols)

    def whole(self, x: Tensor, inverse: Inverse) -> Tensor:
        """Images of what `image` made of them, which are blocks if the model works blockwise."""
        if not self.blockwise:
            return x
        return self.operator.to_image(x.reshape(*inverse.y.shape[:3], -1), inverse.size)

    def measures(self, operator: LinearOperator) -> bool:
        """Whether an operator is the model's own, but for rounding."""
        if not isinstance(operator, BlockSensing) or operator.block != self.operator.block:
            return False
        ours, theirs = self.operator.phi, operator.phi
        return ours.shape == theirs.shape and torch.allclose(ours, theirs.to(ours), rtol=0, atol=SAME)

    def check(self, y: Tensor, anywhere: bool = False) -> None:
        """Looks at measurements, on the model's device or `anywhere`.

        Raises:
            ValueError: they have another shape, type or device, NaN or Inf.
        """
        m = self.q.shape[1]
        fits = y.ndim == 4 and y.is_floating_point()
        expect(fits, "reconstruct", "y", f"real measurements [B, rows, cols, {m}]", y)
        ratio = f" (ratio {self.meta['ratio']:g}%)" if "ratio" in self.meta else ""
        got = f"{y.shape[3]} ({100 * y.shape[3] / len(self.q):.0f}% of the {len(self.q)} pixels)"
        expect(y.shape[1] * y.shape[2] > 0, "reconstruct", "y", "at least one block an image", y)
        expect(y.shape[3] == m, "reconstruct", "y", f"{m} measurements per block{ratio}", got)
        here = anywhere or y.device == self.q.device
        expect(here, "reconstruct", "y", f"a tensor on {self.q.device}", f"one on {y.device}")
        expect_finite(y, "reconstruct", "finite measurements", "image")

    def measured(self, inverse: Inverse) -> bool:
        """Whether the measurements were made with the model's sampling matrix.

        A file may say by a fingerprint what made them; then its operator was only assumed.
        """
        told = inverse.facts.get("operator")
        if isinstance(told, str):
            return same_sampling(told, fingerprint(self.operator))
        return self.measures(inverse.operator)

    def expect_own(self, inverse: Inverse) -> None:
        """Raises ValueError unless the measurements were made with the model's sampling matrix."""
        same = self.measured(inverse)
        maker = f" (they were made for {inverse.facts['model']})" if "model" in inverse.facts else ""
        expect(same, "reconstruct", "measurements", "those of the model's own sampling matrix", f"another's{maker}")

    def problem_options(self) -> dict[str, Any]:
        """The sampling matrix and the side of the blocks."""
        block = {"block": self.operator.block}
        if not self._from_seed:
            return {"matrix": self._phi} | block
        ratio = self.meta.get("ratio", 100 * len(self._phi) / self._phi.shape[1])
        return {"ratio": ratio, "phi_seed": self.meta["phi_seed"]} | block

    def hyperparameters(self) -> dict[str, Any]:
        """Of the solver, and of the blocks."""
        own: dict[str, Any] = {"block": self.operator.block, "blockwise": self.blockwise}
        return self.solver.hyperparameters() | own | ({"phi_sample": _sample(self._phi)} if self._from_seed else {})

    def tensors(self) -> dict[str, Tensor]:
        """Weights and start. A sampling matrix that `random_phi` makes of `meta["phi_seed"]` is left out, and made
        again by `load`; it and the start are stored in half precision where that is exact.
        """
        own = {k: v for k, v in self.solver.state_dict().items() if not k.startswith("fidelity.")}
        own |= {"q": _halved(self.q.detach())}
        return own if self._from_seed else own | {"phi": _halved(self._phi)}

    @property
    def _phi(self) -> Tensor:
        return self.operator.phi.detach()

    @property
    def _from_seed(self) -> bool:
        seed, phi = self.meta.get("phi_seed"), self._phi
        return seed is not None and torch.equal(random_phi(phi.shape[0], phi.shape[1], seed).to(phi), phi)


def sampling(head: Header, tensors: dict[str, Tensor]) -> tuple[BlockSensing, Tensor]:
    """The operator and Q of a file; their tensors are taken out."""
    settings = head.hyperparameters
    q, phi = _single(tensors.pop("q")), tensors.pop("phi", None)
    if phi is None:
        seed = head.operator["phi_seed"]
        phi = random_phi(q.shape[1], q.shape[0], seed).to(q)
        pairs = zip(_sample(phi), settings["phi_sample"], strict=True)
        if not all(math.isclose(a, b, abs_tol=SAME) for a, b in pairs):
            raise RuntimeError(f"the sampling matrix of seed {seed} comes out differently on this machine")
    return BlockSensing(_single(phi), settings["block"]), q


def restore(solver: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Gives a solver the parameters of a file, which must have them all and no others; shared ones by one name."""
    found, own = solver.load_state_dict(tensors, strict=False), solver.state_dict()
    given = {own[k].data_ptr() for k in tensors if k in own}
    missing = [k for k in found.missing_keys if not k.startswith("fidelity.") and own[k].data_ptr() not in given]
    if missing or found.unexpected_keys:
        raise RuntimeError(f"parameters missing: {missing}, unknown: {found.unexpected_keys}")


def fits_sampling(head: Header, count: int) -> bool:
    """Whether a file is of a model for so many measurements a block."""
    return measurements(head.operator["ratio"], head.hyperparameters["block"] ** 2) == count


def _halved(t: Tensor) -> Tensor:
    """Single numbers as half ones, if these are the same."""
    half = t.half()
    return half if t.dtype == torch.float32 and torch.equal(half.float(), t) else t


def _single(t: Tensor) -> Tensor:
    return t.float() if t.dtype == torch.float16 else t


def _sample(phi: Tensor) -> list[float]:
    """A few entries that tell whether a matrix made from its seed is the one of the training."""
    return phi.flatten()[:: max(1, phi.numel() // 7)].tolist()
