"""ISTA-Net, ISTA-Net+ and LISTA for block compressed sensing.

Sources: of the solvers, `solvers.ista_net` and `lista`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from fastrecon.certificates import MisfitReport
from fastrecon.checks import expect
from fastrecon.models import card
from fastrecon.models.base import load, register, trained
from fastrecon.models.blocks import BlockModel, fits_sampling, restore, sampling
from fastrecon.models.file import Header
from fastrecon.models.unrolled import SOLVERS as MRI
from fastrecon.models.unrolled import UnrolledModel, runner
from fastrecon.operators.base import LinearOperator
from fastrecon.operators.block_sensing import BlockSensing, measurements
from fastrecon.options import check, option
from fastrecon.solvers.ista_net import ISTANet
from fastrecon.solvers.lista import LISTA
from fastrecon.solvers.methods import Inverse, Outcome, Runner, Watch, method

SOLVERS: dict[str, type[ISTANet | LISTA]] = {"ista-net": ISTANet, "ista-net-plus": ISTANet, "lista": LISTA}
ROUNDED = 1e-2  # of published matrices in single precision
TITLES = {"ista-net": "ISTA-Net", "ista-net-plus": "ISTA-Net+", "lista": "LISTA"}


@register(*SOLVERS)
class ISTANetModel(BlockModel):
    """ISTA-Net, ISTA-Net+ or LISTA for one sampling matrix.

    Args:
        operator, q, meta, blockwise: as of BlockModel; published weights are blockwise.
        solver: the network.
    """

    solver: ISTANet | LISTA

    def __init__(
        self,
        operator: BlockSensing,
        solver: ISTANet | LISTA,
        q: Tensor,
        meta: Mapping[str, Any],
        blockwise: bool = True,
    ):
        name = "lista" if isinstance(solver, LISTA) else f"ista-net{'-plus' * solver.plus}"
        super().__init__(name, operator, solver, q, meta, blockwise)

    @classmethod
    def from_published(
        cls, state: Mapping[str, Any], phi: Any, q: Any, meta: Mapping[str, Any] | None = None, block: int = 33
    ) -> "ISTANetModel":
        """The model of weights of ISTA-Net-PyTorch; `save` makes a file of it that every command takes.

        Args:
            state: as of ISTANet.from_state.
            phi: sampling matrix [m, block * block], as `scipy.io.loadmat(path)["phi"]` gives it.
            q: least-squares start [block * block, m], published as `Qinit`.
            meta: facts to keep, such as `name`.
            block: side of the blocks in pixels.

        Raises:
            ValueError: something does not fit, or rows of phi are not orthonormal: the steps have learned |A| = 1.
        """
        phi, q = torch.as_tensor(phi).float(), torch.as_tensor(q).float()
        operator = BlockSensing(phi, block)
        error = (phi @ phi.T - torch.eye(len(phi))).abs().max().item()
        expect(error <= ROUNDED, cls.__name__, "phi", "orthonormal rows: phi phi^T = I", f"an error of {error:.3g}")
        ratio = 100 * len(phi) / block**2
        ratio = round(ratio) if measurements(round(ratio), block**2) == len(phi) else ratio
        return cls(operator, ISTANet.from_state(operator, state).float(), q, {"ratio": ratio} | dict(meta or {}))

    @property
    def independent(self) -> bool:
        """Always: convolutions are applied image by image."""
        return True

    @torch.no_grad()
    def compute(
        self, y: Tensor, operator: LinearOperator | None = None, size: tuple[int, int] | None = None,
        callback: Callable[[int, Tensor], object] | None = None,
    ) -> tuple[Tensor, MisfitReport]:  # fmt: skip
        """Images [B, 1, H, W] of measurements [B, rows, cols, m].

        Args:
            y: measurements that passed `check`.
            operator: the model's own, or None.
            size: (H, W) of the images, to which the last blocks are cropped; else whole blocks.
            callback: callback(k, images) after every phase; blockwise of blocks.

        Raises:
            ValueError: size or operator does not fit.
        """
        return self.reconstructed(y, operator, size, {"callback": callback})

    def image(self, y: Tensor, size: tuple[int, int] | None, options: dict[str, Any]) -> tuple[Tensor, MisfitReport]:
        """As of BlockModel."""
        return self.solver(y, self.start(y, size), **options)

    @classmethod
    def from_file(cls, head: Header, tensors: dict[str, Tensor]) -> "ISTANetModel":
        """The model of what a file holds."""
        settings = head.hyperparameters
        operator, q = sampling(head, tensors)
        kind = SOLVERS[head.method]
        names = kind(operator, phases=1).hyperparameters()
        solver = kind(operator, **{k: settings[k] for k in names}).to(q.dtype)
        restore(solver, tensors)
        return cls(operator, solver, q, head.meta, settings["blockwise"])

    def card(self) -> str:
        """As of Model."""
        training, settings = card.training_of(self.meta)
        net, method = self.solver, self.method
        channels = f", {net.channels} channels" if isinstance(net, ISTANet) else ""
        paper = {
            "lista": "Gregor & LeCun, Learning Fast Approximations of Sparse Coding, ICML 2010; Chen, Liu, Wang & Yin,"
            " NeurIPS 2018, arXiv:1808.10038",
        }.get(method, "Zhang & Ghanem, ISTA-Net, CVPR 2018, arXiv:1706.07929")
        what = [
            f"{TITLES[method]} for block compressed sensing at {self.meta['ratio']:g}%"
            f" ({self.operator.block}x{self.operator.block} blocks): {net.phases} phases{channels}.",
            f"Method: {paper}.",
        ]
        code = ["result = model(model.operator(image), size=image.shape[-2:])  # image [B, 1, H, W] on [0, 1]"]
        quality, images = training.get("validation_psnr"), training["images"]
        facts = {
            "training data": f"{', '.join(training['data'])}: luminance, {images['training']} images",
            "validation": "none" if quality is None else f"{images['validation']} images, PSNR {quality} dB",
            "optimiser": f", batch {settings['batch']} of {settings['patch']}x{settings['patch']} pixels",
            "seeds": f"network and data {settings['seed']}, sampling matrix {settings['phi_seed']}",
        }
        return card.page(self.meta, what, code, facts)


@dataclass(frozen=True)
class Options:
    """Options of ISTA-Net."""

    model: str = option("path of a .safetensors file", "")
    blockwise: bool | None = option(
        "whether every block is an image of its own, as in the paper; default: as the model was trained", None,
        type=bool,
    )  # fmt: skip

    def __post_init__(self):
        check(self, "reconstruct")


def _prepare(name: str) -> Callable[[Options, torch.device], Runner]:
    def prepare(options: Options, device: torch.device) -> Runner:
        @cache
        def model(count: int) -> ISTANetModel:
            found = trained(name, ISTANetModel.problem, options.model, partial(fits_sampling, count=count)).to(device)
            assert isinstance(found, ISTANetModel)
            found.blockwise = found.blockwise if options.blockwise is None else options.blockwise
            return found

        imaging = name in MRI and bool(options.model) and load(options.model).problem == UnrolledModel.problem
        if imaging:
            return runner(name, options.model, device)
        if options.model:  # a wrong one is told before anything is read
            model(0)

        def run(inverse: Inverse, watch: Watch | None = None) -> Outcome:
            own = model(0 if options.model else inverse.y.shape[-1])
            own.check(inverse.y)
            own.expect_own(inverse)

            def tell(k: int, x: Tensor) -> None:
                if watch is not None:
                    watch(k, own.solver.phases, lambda: own.whole(x, inverse), "phases")

            result = own(inverse.y, size=inverse.size, callback=tell)
            if not torch.isfinite(result.x).all():
                largest = f"|y| up to {inverse.y.abs().max().item():.3g}"
                expect(False, "reconstruct", "y", f"measurements such as {own.name} is trained for", largest)
            return Outcome(result.x, result.report, own.start(inverse.y.to(own.q.dtype), inverse.size), {}, own.name)

        return run

    return prepare


for _name, _title in TITLES.items():
    _problems = (ISTANetModel.problem, *([UnrolledModel.problem] if _name in MRI else []), "")
    method(_name, Options, f"{_title}: learned phases of ISTA", _problems)(_prepare(_name))
