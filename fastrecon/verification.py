"""The promises tried on this machine: the same bits in any batch, adjoints, kernels as accurate as their definitions,
certificates that say what is so.

The problems are those of `zoo`; the judge of accuracy is the definition in float64 of the same rounded inputs.
"""

import copy
import dataclasses
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastrecon import registry, zoo
from fastrecon.certificates import Certificate
from fastrecon.checks import expect

ADJOINT = 1e-5  # of |A x| |y|: float32, some hundred roundings
FACTOR, WINOGRAD = 2, 3  # how much farther than eager PyTorch from float64 a kernel may be; of Winograd's products
CLAIMED = 1e-4  # how far a certificate may be from what float64 finds: sums of thousands of float32
SLACK = 4  # units in the last place that are granted anyway: eager may be exact by luck


@dataclasses.dataclass(frozen=True)
class Finding:
    """What came of one case on one backend: `problems` is empty if all is well."""

    backend: str
    kind: str
    name: str
    problems: list[str]
    seconds: float


def parts(result: Any, name: str = "result") -> Iterator[tuple[str, Tensor]]:
    """The tensors of a result with their names, images first."""
    if isinstance(result, Tensor):
        yield name, result
    elif isinstance(result, Certificate):
        found: list[tuple[str, Tensor]] = []
        result.map(lambda field, t: found.append((f"report.{field}", t.movedim(-1, 0))) or t)
        yield from found
    elif dataclasses.is_dataclass(result):
        for field in dataclasses.fields(result):
            yield from parts(getattr(result, field.name), field.name)
    elif isinstance(result, tuple):
        fields = getattr(result, "_fields", [f"output {k}" for k in range(len(result))])
        for field, value in zip(fields, result, strict=True):
            yield from parts(value, field)


def same(a: Tensor, b: Tensor) -> bool:
    """Whether a and b agree in type, shape and every bit; NaN equals NaN, and 0 equals -0."""
    if a.shape != b.shape or a.dtype != b.dtype or not torch.equal(a.isnan(), b.isnan()):
        return False
    return torch.equal(a.nan_to_num(), b.nan_to_num()) and torch.equal(a.isinf(), b.isinf())


def bits(case: zoo.Case) -> list[str]:
    """Where an image's result depends on when, with what, at which place of a batch and of memory it is computed."""

    def run(*batches: Tensor) -> dict[str, Tensor]:
        return dict(parts(case.run(*batches, *case.shared)))

    inputs, count = case.inputs, len(case.inputs[0])
    whole, everyone = run(*inputs), list(range(count))
    others = {
        "repeated": (inputs, everyone),
        "first alone": ([t[:1] for t in inputs], [0]),
        "last alone": ([t[-1:] for t in inputs], [count - 1]),
        "last alone, copied": ([t[-1:].clone() for t in inputs], [count - 1]),
        "in a smaller batch": ([t[1:] for t in inputs], everyone[1:]),
        "in reversed order": ([t.flip(0) for t in inputs], everyone[::-1]),
        "strided in memory": ([_strided(t) for t in inputs], everyone),
    }
    problems = []
    for how, (batches, which) in others.items():
        found = run(*batches)
        bad = [name for name, t in whole.items() if name not in found or not same(found[name], t[which])]
        problems += [f"{how}: other bits in {', '.join(bad)}"] if bad else []
    return problems


def adjoint(case: zoo.Case) -> list[str]:
    """Whether <A x, y> = <x, A* y> for the operator of a case, to rounding."""
    assert case.operator is not None
    x, *own = case.inputs
    error = case.operator(*own).to(x.device).adjoint_test(x.shape)
    return [] if error <= ADJOINT else [f"adjoint: <A x, y> and <x, A* y> differ by {error:.1e} |A x| |y|"]


def accuracy(case: zoo.Case, backend: str, factor: float) -> list[str]:
    """Outputs and derivatives that are farther from float64 than `factor` times what the definition makes of them."""
    with registry.using(backend):
        found = _with_derivatives(case)
    with registry.using("reference"):
        eager, exact = _with_derivatives(case), _with_derivatives(_double(case))
    problems = []
    for name, mine in found.items():
        ours, theirs = (_error(t, exact[name]) for t in (mine, eager[name]))
        if not ours <= max(factor * theirs, SLACK * torch.finfo(torch.float32).eps):
            problems.append(f"accuracy: {name} has error {ours:.1e}, its definition {theirs:.1e}")
    return problems


def certificate(case: zoo.Case) -> list[str]:
    """What the certificate of a case says that is not so, recomputed in float64."""
    assert case.claims is not None
    with torch.no_grad():
        result, wide = case.run(*case.inputs, *case.shared), _double(case)
        claims = case.claims(result, *wide.inputs, *wide.shared)
    problems = []
    for name, (said, found) in claims.items():
        if not (error := _error(said, found)) <= CLAIMED:
            problems.append(f"certificate: {name} is {error:.1e} from what it is when recomputed")
    return problems


def verify(backend: str, device: torch.device | str = "cpu", quick: bool = False) -> Iterator[Finding]:
    """Tries all promises with all ops on `backend`.

    Args:
        backend: a name in registry.usable(device).
        device: where to compute.
        quick: whether to leave out the shipped models.

    Yields:
        What came of each case.

    Raises:
        ValueError: the device has no such backend.
    """
    usable = registry.usable(torch.device(device).type)
    expect(backend in usable, "verify", "backend", f"one of {', '.join(usable)} on {device}", repr(backend))
    for kind, cases in zoo.groups().items():
        for name in [] if quick and kind == "model" else cases:
            start = time.perf_counter()
            problems = one(kind, name, backend, device)
            yield Finding(backend, kind, name, problems, time.perf_counter() - start)


def one(kind: str, name: str, backend: str, device: torch.device | str = "cpu") -> list[str]:
    """What is wrong with one case; what it raises is among it."""
    try:
        case = _moved(zoo.groups()[kind][name](), device)
        with registry.using(backend):
            problems = bits(case)
            problems += [] if case.operator is None else adjoint(case)
            problems += [] if case.claims is None else certificate(case)
        if kind == "op" and backend != "reference":
            problems += accuracy(case, backend, WINOGRAD if name.startswith("feature") else FACTOR)
    except (ValueError, RuntimeError, ArithmeticError) as e:
        return [f"{type(e).__name__}: {' '.join(str(e).split())}"]
    return problems


def _strided(t: Tensor) -> Tensor:
    """t with gaps between its numbers."""
    return t.new_zeros(*t.shape[:-1], 2 * t.shape[-1] + 1)[..., 1::2].copy_(t)


def _each(case: zoo.Case, change: Any) -> zoo.Case:
    inputs, shared = (tuple(change(t) for t in group) for group in (case.inputs, case.shared))
    return dataclasses.replace(case, inputs=inputs, shared=shared)


def _moved(case: zoo.Case, device: torch.device | str) -> zoo.Case:
    return _each(case, lambda t: t.to(device) if isinstance(t, Tensor | nn.Module) else t)


def _double(case: zoo.Case) -> zoo.Case:
    return _each(case, _wide)


def _wide(t: Any) -> Any:
    if isinstance(t, nn.Module):
        return copy.deepcopy(t).to(torch.float64)
    real = isinstance(t, Tensor) and (t.is_floating_point() or t.is_complex())
    return t.to(torch.complex128 if t.is_complex() else torch.float64) if real else t


def _with_derivatives(case: zoo.Case) -> dict[str, Tensor]:
    """Outputs, and the derivatives of a fixed functional of them in all real and complex inputs."""
    if not case.smooth:
        return dict(parts(case.run(*case.inputs, *case.shared)))
    arguments = [t.clone().requires_grad_() for t in (*case.inputs, *case.shared)]
    outputs = dict(parts(case.run(*arguments)))
    used = {name: t for name, t in outputs.items() if t.requires_grad}
    probes = [zoo.numbers(*t.shape, dtype=t.dtype, seed=1).to(t.device) for t in used.values()]
    loss = sum(((t * p).real.sum() for t, p in zip(used.values(), probes, strict=True)), torch.zeros(()))
    grads: Sequence[Tensor | None] = torch.autograd.grad(loss.to(probes[0].device), arguments, allow_unused=True)
    found = {name: t.detach() for name, t in outputs.items()}
    return found | {f"derivative in argument {k}": g for k, g in enumerate(grads) if g is not None}


def _error(t: Tensor, exact: Tensor) -> float:
    """|t - exact| / |exact|; of what is no number, how much differs."""
    if t.dtype in (torch.bool, torch.int64):
        return (t != exact).double().mean().item()
    wide = _wide(exact)
    return ((t.to(wide.dtype) - wide).norm() / wide.norm().clamp_min(1e-300)).item()
