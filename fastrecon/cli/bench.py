"""`fastrecon bench`: how fast fastrecon is on this machine, against eager PyTorch. No timing of wrong answers."""

import argparse
import copy
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor

from fastrecon import io, ops
from fastrecon.checks import expect
from fastrecon.cli import arguments, batch, choice, eager
from fastrecon.cli.output import backend
from fastrecon.cli.progress import Progress
from fastrecon.engine import Engine
from fastrecon.models import BlockSensingModel
from fastrecon.operators import BlockSensing, measurements, random_phi
from fastrecon.ops.group_soft_threshold import group_soft_threshold_fwd_ref
from fastrecon.ops.prox_lp import prox_lp_fwd_ref
from fastrecon.ops.smoothed_l21 import smoothed_l21_fwd_ref
from fastrecon.ops.soft_threshold import soft_threshold_fwd_ref
from fastrecon.solvers import LDA

EPILOG = """examples:
  fastrecon bench --quick
  fastrecon bench --threads 2 --figure speed.png
  fastrecon bench --model lda-cs-50 --json

Each row is first checked: the error against float64 must be at most twice that of eager PyTorch in float32. Then both
run in turns; times are medians of the rounds, ratios are of these medians."""

CHANNELS, LAYERS, PHASES, SIDE, TRAIN_BATCH = 32, 4, 9, 256, 16  # of the published network, on images of SIDE x SIDE
DELTA = 1.0  # of training steps, wider than in the models: rounding carries no pixel across the jumps of a''
THROUGHPUT = 8  # images of half the side, in one batch
FLOOR = 1e-6  # relative errors below this are rounding, whoever makes them


@dataclass(frozen=True)
class Case:
    """A thing to time: `ours` and `plain` map the same inputs to the same outputs.

    Attributes:
        name: of the row.
        inputs: float32 tensors.
        pixels: of the images worked on.
        exact: `plain` for float64 inputs, where it must be another function.
    """

    name: str
    inputs: Sequence[Tensor]
    pixels: int
    ours: Callable[..., Any]
    plain: Callable[..., Any]
    exact: Callable[..., Any] | None = None


def add_arguments(parser: argparse.ArgumentParser, words: Sequence[str] = ()) -> None:
    """The options."""
    parser.epilog = EPILOG
    parser.add_argument("--quick", action="store_true", help="smaller images, fewer rounds")
    parser.add_argument(
        "--rounds", type=arguments.integer(1, 10_000), metavar="N", help="repetitions (default: 15; quick: 3)"
    )
    parser.add_argument(
        "--model", type=arguments.name, metavar="NAME",
        help="an LDA model (default: an untrained network of the published size; only its results differ)",
    )  # fmt: skip
    parser.add_argument("--figure", type=arguments.name, metavar="FILE", help="draw the ratios there (PNG)")
    arguments.add_overwrite(parser)
    arguments.add_device(parser)
    arguments.add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Prints a row for each case as soon as it is measured."""
    device = arguments.device(args)
    batch.outputs(args, args.figure)
    model = _model(args.model).to(device) if args.model else untrained().to(device)
    side = SIDE // 2 if args.quick else SIDE
    rounds = args.rounds or (3 if args.quick else 15)
    every = list(cases(model, side, device, side // 2 if args.quick else side))
    title = f"{backend(device)}; {torch.get_num_threads()} threads; torch {torch.__version__}"
    width, rows = max(len(case.name) for case in every), []
    with Progress(len(every), "case") as progress:
        if not args.json:
            progress.say(f"{title}\n{head(width)}")
        for case in every:
            progress.item(case.name)
            rows.append(measure(case, rounds))
            if not args.json:
                progress.say(line(rows[-1], width))
    if args.figure:
        from fastrecon import figures

        io.write_figure(args.figure, figures.speed(rows, title))
    if args.json:
        arguments.answer(args, {"setting": title, "rounds": rounds, "rows": rows}, "")


def _model(name: str) -> BlockSensingModel:
    found = choice.load(name)
    expect(isinstance(found, BlockSensingModel), "bench", "--model", "a model for block-cs", f"one for {found.problem}")
    assert isinstance(found, BlockSensingModel)
    return found


def cases(model: BlockSensingModel, side: int, device: torch.device, whole: int) -> Iterator[Case]:
    """The ops on one image's features, the regulariser forward and in training, and reconstructions of side `whole`."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device)

    generator = torch.Generator().manual_seed(0)
    pixels, n = side * side, f"{side}x{side}"
    g, eps, tau = normal(1, CHANNELS, pixels), torch.ones(1, device=device), torch.ones(1, 1, device=device)
    flat = g.view(1, 1, -1)
    yield Case(f"smoothed_l21 {n}", (g, eps), pixels, ops.smoothed_l21, lambda g, e: smoothed_l21_fwd_ref(g, e)[:2])
    yield Case(f"soft_threshold {n}", (flat, tau[0]), pixels, ops.soft_threshold, soft_threshold_fwd_ref)
    yield Case(
        f"group_soft_threshold {n}",
        (g, tau[0]),
        pixels,
        ops.group_soft_threshold,
        lambda g, t: group_soft_threshold_fwd_ref(g, t[None]),
    )
    yield Case(
        f"prox_lp p = 0.5 {n}",
        (flat, tau[0]),
        pixels,
        lambda x, t: ops.prox_lp(x, t, 0.5),
        lambda x, t: prox_lp_fwd_ref(x, t, 0.5),
    )
    weights = [0.1 * normal(CHANNELS, CHANNELS if k else 1, 3, 3) for k in range(LAYERS)]
    x = normal(1, 1, side, side)
    yield Case(
        f"feature_gradient {n}", (x, eps, *weights), pixels,
        lambda x, e, *w: ops.feature_gradient(x, w, e), lambda x, e, *w: eager.feature_gradient(x, w, e),
    )  # fmt: skip
    x, eps = normal(TRAIN_BATCH, 1, 33, 33), torch.ones(TRAIN_BATCH, device=device)
    yield Case(
        f"feature_gradient, training step {TRAIN_BATCH}x33x33", (x, eps, *weights), x.numel(),
        lambda x, e, *w: training(lambda x, w, e: ops.feature_gradient(x, w, e, DELTA), x, e, w),
        lambda x, e, *w: training(lambda x, w, e: eager.feature_gradient(x, w, e, DELTA, create_graph=True), x, e, w),
    )  # fmt: skip
    engine, exact = Engine(model), copy.deepcopy(model).double()
    for count, s in ((1, whole), (THROUGHPUT, whole // 2)):
        x = torch.rand(count, 1, s, s, generator=generator).to(device)
        size, what = (s, s), f"{count}x{s}x{s}" if count > 1 else f"{s}x{s}"
        yield Case(
            f"LDA, {model.solver.phases} phases {what}", (model.operator(x).detach(),), x.numel(),
            lambda y, size=size: engine(y, size=size).x, lambda y, size=size: eager.lda(model, y, size),
            lambda y, size=size: eager.lda(exact, y, size),
        )  # fmt: skip


def training(
    op: Callable[..., tuple[Tensor, Tensor]], x: Tensor, eps: Tensor, weights: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """The derivative of |grad r_eps(x)|^2 / 2 in the weights: what a training step asks of a phase."""
    leaves = [t.detach().requires_grad_() for t in (x, *weights)]
    return torch.autograd.grad(op(leaves[0], leaves[1:], eps)[1].square().sum() / 2, leaves)[1:]


def untrained() -> BlockSensingModel:
    """The published network at 25% with random weights, small enough that its iterates stay bounded."""
    torch.manual_seed(0)
    phi = random_phi(measurements(25)).float()
    operator = BlockSensing(phi)
    solver = LDA(operator, PHASES, CHANNELS, LAYERS)
    with torch.no_grad():
        for w in solver.regulariser.weights:
            w.mul_(0.5)
    return BlockSensingModel(operator, solver, phi.T.contiguous(), {"ratio": 25, "name": "untrained"})


def measure(case: Case, rounds: int) -> dict[str, Any]:
    """Checks a case, then times both sides in turns.

    Raises:
        RuntimeError: our answer is less accurate than allowed.
    """
    double = [t.double() for t in case.inputs]
    exact = outputs((case.exact or case.plain)(*double))
    error, plain_error = (distance(outputs(f(*case.inputs)), exact) for f in (case.ours, case.plain))
    if not error <= 2 * plain_error + FLOOR:
        raise RuntimeError(
            f"bench: {case.name}: error {error:.2g} against float64, eager PyTorch's is {plain_error:.2g}"
        )
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for times, function in zip(seconds, (case.ours, case.plain), strict=True):
            times.append(timed(function, case.inputs))
    ours, plain = (median(times) for times in seconds)
    return {
        "name": case.name, "seconds": ours, "baseline_seconds": plain, "ratio": plain / ours,
        "megapixels_per_second": case.pixels / ours / 1e6, "error": error, "baseline_error": plain_error,
    }  # fmt: skip


def timed(function: Callable[..., Any], inputs: Sequence[Tensor]) -> float:
    """Seconds of one call."""
    if inputs[0].is_cuda:
        torch.cuda.synchronize()
    begin = time.perf_counter()
    function(*inputs)
    if inputs[0].is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def outputs(result: Any) -> list[Tensor]:
    """Results as a list in float64."""
    return [t.detach().double() for t in (result if isinstance(result, list | tuple) else [result])]


def distance(found: list[Tensor], exact: list[Tensor]) -> float:
    """The largest relative error."""
    return max(((a - b).norm() / b.norm()).item() for a, b in zip(found, exact, strict=True))


def head(width: int) -> str:
    """The head of the table, whose first column has this width."""
    text = f"{'':<{width}}  {'eager ms':>9}  {'ours ms':>9}  {'ratio':>6}  {'Mpixel/s':>8}  {'error':>7}"
    return f"{text}\n{'-' * len(text)}"


def line(r: dict[str, Any], width: int) -> str:
    """A row of the table."""
    return (
        f"{r['name']:<{width}}  {1e3 * r['baseline_seconds']:9.3f}  {1e3 * r['seconds']:9.3f}  {r['ratio']:6.2f}"
        f"  {r['megapixels_per_second']:8.3g}  {r['error']:7.1e}"
    )
