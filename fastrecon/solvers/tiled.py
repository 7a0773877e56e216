"""The trained phases of LDA for images that do not fit into memory: the same numbers, a strip of rows at a time.

The regulariser looks at tiles with a margin, the data term at whole rows of blocks, and what decides (which candidate
is lower, whether eps shrinks) are sums over the whole image. The image and its parts of the state lie in scratch files.

An image has the bits that LDA gives it on one thread, however many work here: on several the kernels divide an untiled
image elsewhere, and round otherwise. Sums over an image are of other parts than LDA's, in float64; so its certificate
agrees to the rounding of those.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastrecon.certificates import TRAINED_ONLY, Report, Status
from fastrecon.checks import expect
from fastrecon.operators.block_sensing import BlockSensing, product_per_image
from fastrecon.ops.feature_gradient import bfloat16_here
from fastrecon.ops.feature_tile import GRID, feature_tile, margin
from fastrecon.solvers.lda import LDA
from fastrecon.solvers.planes import Kept, Plane, Rows, strips
from fastrecon.terms.feature_norm import GRADIENT_ERROR, TINY, VALUE_ERROR, FeatureNorm

EXACT = "float32"
LOOKS = 3  # at all rows in a phase, at least
IMAGES, GRADIENTS = ("x", "u", "v"), ("g", "h")  # scratch files that stay


@dataclass(frozen=True)
class _Found:
    """What one look at an image finds, [1] each."""

    r: Tensor  # r_eps, in the image's type
    f: Tensor  # |A x - y|^2 / 2, float64
    norm: Tensor  # |grad f + grad r_eps|, float64
    slope: Tensor  # |grad r_eps|, float64


@dataclass
class _Standing:
    """Between two phases: how many are done, the image, grad r_eps there, and what decides the next one."""

    k: int
    x: Plane
    g: Plane
    at: _Found
    eps: Tensor
    next_eps: Tensor
    passed: Tensor
    took: Tensor
    reductions: Tensor
    estimated: bool = False

    def numbers(self) -> dict[str, Any]:
        """What JSON can hold, exactly."""
        tensors = {
            **vars(self.at),
            **{n: getattr(self, n) for n in ("eps", "next_eps", "passed", "took", "reductions")},
        }
        plain = {n: [t.dtype.__repr__().removeprefix("torch."), t.item()] for n, t in tensors.items()}
        return {"k": self.k, "x": self.x.name, "g": self.g.name, "estimated": self.estimated, "tensors": plain}

    @classmethod
    def of(cls, numbers: Mapping[str, Any], x: Plane, g: Plane) -> "_Standing":
        """That of `numbers`."""
        t = {n: torch.tensor([value], dtype=getattr(torch, kind)) for n, (kind, value) in numbers["tensors"].items()}
        at = _Found(*(t.pop(n) for n in ("r", "f", "norm", "slope")))
        return cls(numbers["k"], x, g, at, **t, estimated=numbers["estimated"])


class TiledLDA:
    """`TiledLDA(solver, tile, folder)(y, x0)` is `solver(y, x0)` for one image of real numbers and block sensing.

    Args:
        solver: LDA on the CPU, without safeguard, of a BlockSensing.
        tile: side of a tile in pixels, taken up to a multiple of 4 and of the blocks. Memory is proportional to it and
            to the width of the image: about 60 tile W bytes.
        folder: for scratch files, six of the size of the image.
        kept: where the state after every phase stays, from which a call goes on that was broken off; None: nowhere.

    Raises:
        ValueError: the solver is another.
    """

    def __init__(self, solver: LDA, tile: int, folder: Path, kept: Kept | None = None):
        operator, r = solver.fidelity.operator, solver.regulariser
        plain = type(solver) is LDA and not solver.safeguard and type(r) is FeatureNorm
        fits = plain and isinstance(operator, BlockSensing) and r.in_channels == 1
        expect(fits, "TiledLDA", "solver", "LDA of block sensing and real images, without safeguard", solver)
        expect(solver.raw_alpha.device.type == "cpu", "TiledLDA", "solver", "one on the CPU", solver.raw_alpha.device)
        assert isinstance(operator, BlockSensing)
        self.solver, self.operator, self.kept = solver, operator, kept
        self.folder = folder if kept is None else kept.folder
        unit = math.lcm(GRID, operator.block)
        self.tile = max(1, -(-tile // unit)) * unit
        self.margin = margin(len(r.weights))

    @torch.no_grad()
    def __call__(
        self, y: Rows, x0: Plane | None, callback: Callable[[float], object] | None = None
    ) -> tuple[Plane, Report]:
        """The image [H, W] after the trained phases, and its report, without history.

        Args:
            y: measurements, rows [cols, m] of blocks.
            x0: the image to start from, [H, W], of `start`; it is written over. None: where the state that was kept is.
            callback: called after every strip of rows with the number of phases that are done, about.
        """
        with self._workers():
            return self._phases(y, x0, callback or (lambda done: None))

    def start(self, y: Rows, q: Tensor, size: tuple[int, int]) -> Plane:
        """x0 = Q y of every block, an image [H, W]."""
        x, block = self._plane(size, IMAGES[0]), self.operator.block
        for begin, end in strips(y.shape[0], self.tile // block):
            rows = min(end * block, size[0]) - begin * block
            part = self.operator.to_image(product_per_image(y.read(begin, end)[None], q.T), (rows, size[1]))
            x.write(begin * block, part[0, 0])
        return x

    def _phases(self, y: Rows, x0: Plane | None, callback: Callable[[float], object]) -> tuple[Plane, Report]:
        s, r = self.solver, self.solver.regulariser
        now = self._begun(y, x0, callback)
        u, v, g_u = self._others(now)
        estimating = r.precision == "bfloat16" and s.raw_alpha.dtype == torch.float32 and bfloat16_here()
        estimating = estimating and s.eps_mode == "sample"
        precision = r.precision if estimating else EXACT
        for k, (a, t) in enumerate(zip(*s.step_sizes(), strict=True), 1):
            if k <= now.k:
                continue
            tell = self._teller(callback, k - 1, now.x.shape[0])
            x, g, at, estimated = now.x, now.g, now.at, now.estimated
            reductions, eps = now.reductions + now.passed, now.next_eps
            if now.passed:
                at, estimated = self._evaluate(x, y, eps, g, tell=tell), False
            self._candidates(x, g, y, eps, a, t, u, v, tell)
            at_u = self._evaluate(u, y, eps, g_u, precision, tell)
            at_v = self._evaluate(v, y, eps, None, precision, tell)
            estimated = estimating
            if estimated and not (at_u.r - at_v.r + (at_u.f - at_v.f)).abs() > VALUE_ERROR * (at_u.r + at_v.r):
                at_u, at_v = self._evaluate(u, y, eps, g_u, tell=tell), self._evaluate(v, y, eps, None, tell=tell)
                estimated = False
            phi_u, phi_v = at_u.f + at_u.r, at_v.f + at_v.r
            took_u = (phi_u <= phi_v) | (phi_v.isnan() & ~phi_u.isnan())
            if took_u:
                x, u, at = u, x, at_u
            else:  # not into g: what was kept of the phase before must last until this one is
                x, v = v, x
                at, estimated = self._evaluate(x, y, eps, g_u, tell=tell), False
            g, g_u = g_u, g
            bound = s.sigma * s.gamma * eps
            if estimated and not (at.norm - bound).abs() > GRADIENT_ERROR * at.slope:
                at, estimated = self._evaluate(x, y, eps, g, tell=tell), False
            passed = at.norm < s.sigma * s.gamma * eps.double()
            if s.eps_mode != "sample":
                passed = at.norm < bound if s.eps_mode == "batch" else torch.ones_like(passed)
            next_eps = torch.where(passed, s.gamma * eps, eps)
            now = _Standing(k, x, g, at, eps, next_eps, passed, now.took + took_u, reductions, estimated)
            if self.kept is not None:
                self.kept.keep(x, g, standing=now.numbers())
            callback(k)
        if now.estimated:
            now.at = self._evaluate(now.x, y, now.eps, now.g)
        return now.x, self._report(now.x, y, now.eps, now.at, now.took, now.reductions)

    def _begun(self, y: Rows, x0: Plane | None, callback: Callable[[float], object]) -> _Standing:
        """The state before the first phase, or the one that was kept."""
        if x0 is None:
            assert self.kept is not None
            numbers, size = self.kept.state["standing"], tuple(self.kept.state["size"])
            return _Standing.of(numbers, self._plane(size, numbers["x"]), self._plane(size, numbers["g"]))
        eps, g = self.solver.eps0.expand(1), self._plane(x0.shape, GRADIENTS[0])
        never, none = torch.zeros(1, dtype=torch.bool), torch.zeros(1, dtype=torch.int64)
        at = self._evaluate(x0, y, eps, g, tell=self._teller(callback, 0, x0.shape[0]))
        now = _Standing(0, x0, g, at, eps, eps, never, none, none)
        if self.kept is not None:
            self.kept.keep(x0, g, standing=now.numbers(), size=list(x0.shape))
        return now

    def _others(self, now: _Standing) -> list[Plane]:
        """Those beside the image and its gradient."""
        images = [n for n in IMAGES if n != now.x.name] if now.x.name else IMAGES[1:]
        gradients = [n for n in GRADIENTS if n != now.g.name] if now.g.name else GRADIENTS[1:]
        return [self._plane(now.x.shape, name) for name in (*images, *gradients)]

    def _teller(self, callback: Callable[[float], object], done: int, rows: int) -> Callable[[], None]:
        """Tells of the strips of a phase, after so many phases."""
        told, each = 0, 1 / (LOOKS * -(-rows // self.tile))

        def tell() -> None:
            nonlocal told
            told += 1
            callback(done + min(told * each, 0.99))

        return tell

    def _report(self, x: Plane, y: Rows, eps: Tensor, at: _Found, took: Tensor, reductions: Tensor) -> Report:
        tiny = torch.full_like(eps, max(TINY, torch.finfo(x.dtype).tiny))
        r = self._evaluate(x, y, tiny, None).r
        phi_eps = at.f + at.r.double()
        merit = phi_eps + x.shape[0] * x.shape[1] / 2 * eps.double()
        finite = torch.tensor([all(bool(x.read(*rows).isfinite().all()) for rows in strips(x.shape[0], self.tile))])
        finite, never = finite & torch.isfinite(merit + at.norm), torch.zeros(1, dtype=torch.bool)
        return Report(
            phi=(at.f + r.double()).clamp(phi_eps, merit), phi_eps=phi_eps, merit=merit, grad_norm=at.norm,
            eps=eps.double(), iterations=torch.full_like(took, self.solver.phases), trials=torch.zeros_like(took),
            took_u=took, reductions=reductions, converged=never, status=Status(TRAINED_ONLY, never, finite, None),
            trained_phases=self.solver.phases,
        )  # fmt: skip

    def _evaluate(
        self, x: Plane, y: Rows, eps: Tensor, grad: Plane | None, precision: str = EXACT,
        tell: Callable[[], None] | None = None,
    ) -> _Found:  # fmt: skip
        """phi_eps at an image, whose gradient of r_eps is written to a plane, if one is given."""
        value, misfit, norm, slope = (torch.zeros(1, dtype=torch.float64) for _ in range(4))
        for begin, end in strips(x.shape[0], self.tile):
            above, below = self._around(begin, end, x.shape[0])
            image = x.read(above, below)
            r, g = self._regulariser(image, slice(begin - above, end - above), eps, precision, grad is not None)
            value += r
            own = image[begin - above : end - above][None, None]
            residual = self.solver.fidelity.residual(own, self._measured(y, begin, end))
            misfit += _square(residual)
            if grad is not None:
                norm += _square(self.solver.fidelity.grad_of(residual, own)[0, 0] + g)
                slope += _square(g)
                grad.write(begin, g)
            if tell is not None:
                tell()
        root = misfit.sqrt()  # as `sum_of_squares` rounds
        return _Found(value.to(x.dtype), root.square() / 2, norm.sqrt(), slope.sqrt())

    def _candidates(
        self, x: Plane, g: Plane, y: Rows, eps: Tensor, a: Tensor, t: Tensor, u: Plane, v: Plane,
        tell: Callable[[], None],
    ) -> None:  # fmt: skip
        """u and v of a phase; see LDA."""
        f, block, rows = self.solver.fidelity, self.operator.block, x.shape[0]
        for begin, end in strips(rows, self.tile):
            above, below = self._around(begin, end, rows)
            first, last = above // block * block, min(-(-below // block) * block, rows)  # of whole blocks
            image = x.read(first, last)[None, None]
            z = (image - a * f.grad_of(f.residual(image, self._measured(y, first, last)), image))[0, 0]
            del image
            own = z[begin - first : end - first]
            v.write(begin, own - a * g.read(begin, end))
            z = z[above - first : below - first]
            precision = self.solver.regulariser.precision if z.dtype == torch.float32 else EXACT
            r = self._regulariser(z, slice(begin - above, end - above), eps, precision, True)[1]
            u.write(begin, own - t * r)
            tell()

    def _regulariser(
        self, strip: Tensor, rows: slice, eps: Tensor, precision: str, gradient: bool
    ) -> tuple[Tensor, Tensor]:
        """r_eps of the rows of a strip, float64 [1], and its gradient there, tile by tile, if it is wanted."""
        r, width = self.solver.regulariser, strip.shape[1]
        weights, delta, final = r.kernels(), r.delta, r.final_activation

        def one(columns: tuple[int, int]) -> tuple[Tensor, Tensor | None]:
            left, right = max(columns[0] - self.margin, 0), min(columns[1] + self.margin, width)
            inside = rows, slice(columns[0] - left, columns[1] - left)
            tile = strip[None, None, :, left:right]
            return feature_tile(tile, weights, eps, inside, delta, final, precision, gradient)

        value, grad = torch.zeros(1, dtype=torch.float64), strip.new_empty(rows.stop - rows.start, width)
        for (begin, end), (part, g) in self._each(one, list(strips(width, self.tile))):
            value += part
            if g is not None:
                grad[:, begin:end] = g[0, 0]
        return value, grad

    @contextmanager
    def _workers(self) -> Iterator[None]:
        """Threads that have a tile each, and no others."""
        count = torch.get_num_threads()
        try:
            with ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                self._pool = pool
                yield
        finally:
            torch.set_num_threads(count)

    def _each(self, one: Callable, tiles: list[tuple[int, int]]) -> Iterator[tuple[tuple[int, int], tuple]]:
        return zip(tiles, self._pool.map(one, tiles), strict=True)

    def _around(self, begin: int, end: int, rows: int) -> tuple[int, int]:
        """The rows of a strip with their margin."""
        return max(begin - self.margin, 0), min(end + self.margin, rows)

    def _measured(self, y: Rows, begin: int, end: int) -> Tensor:
        """The measurements [1, rows, cols, m] of the blocks of these rows of pixels."""
        block = self.operator.block
        return y.read(begin // block, -(-end // block))[None].to(self.operator.phi.dtype)

    def _plane(self, size: tuple[int, ...], name: str) -> Plane:
        return Plane(self.folder, size, self.solver.raw_alpha.dtype, "" if self.kept is None else name)


def _square(t: Tensor) -> Tensor:
    return torch.linalg.vector_norm(t.flatten(), dtype=torch.float64).square()
