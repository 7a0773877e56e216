"""What every trained model offers, whatever its method; the registry of families; models by name or file."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from fastrecon import io
from fastrecon.certificates import Certificate, Result, answer
from fastrecon.checks import choice, expect, named
from fastrecon.models import file as model_file
from fastrecon.operators.base import LinearOperator
from fastrecon.ops.layout import real_dtype

M = TypeVar("M", bound="Model")


class Model(nn.Module, ABC):
    """A trained method: measurements in, images with their certificates out.

    A family is a subclass that `register`s the names of its methods; from then on `load` reads its files.

    Attributes:
        method: its name in files and in the registries.
        problem: name of the problem it was trained for, as in the registry of problems.
        operator: A; None: it is taken with each call.
        meta: facts to keep with the model: `name`, `training`, and those of the measurements, such as `ratio`.
    """

    method: str
    problem: str
    operator: LinearOperator | None
    meta: dict[str, Any]

    def __init__(self, meta: Mapping[str, Any] | None = None):
        super().__init__()
        self.meta = dict(meta or {})

    @property
    def name(self) -> str:
        """Its name, or that of its method."""
        return str(self.meta.get("name") or self.method)

    def forward(self, y: Any, operator: LinearOperator | None = None, **options: Any) -> Result:
        """Images of measurements, and the certificate of each.

        Args:
            y: measurements [B, ...], a tensor on the model's device or an array, whose kind is the answer's; computed
                in the model's precision.
            operator: A, where the model has none of its own.
            options: of `compute`.

        Raises:
            ValueError: y or an option does not fit, or y holds NaN or Inf.
        """
        return answer(self, y, operator=operator, **options)

    @abstractmethod
    def check(self, y: Tensor, anywhere: bool = False) -> None:
        """Looks at measurements, on the model's device or `anywhere`.

        Raises:
            ValueError: they have another shape, type or device, NaN or Inf.
        """

    @abstractmethod
    def compute(self, y: Tensor, operator: LinearOperator | None = None, **options: Any) -> tuple[Tensor, Certificate]:
        """As `forward`, for measurements that passed `check`."""

    def capturable(self, **options: Any) -> bool:
        """Whether `compute` with these options may become a CUDA graph: it asks the host nothing."""
        return False

    @property
    def independent(self) -> bool:
        """Whether no result depends on the others of its batch, so that batches may be cut and filled up."""
        return False

    def set_precision(self, precision: str) -> None:
        """Sets what products of steps that decide nothing are computed in.

        Raises:
            ValueError: the model has no such steps.
        """
        expect(precision == "float32", type(self).__name__, "precision", "float32", repr(precision))

    def problem_options(self) -> dict[str, Any]:
        """What its problem has to be told to simulate measurements for this model."""
        return {}

    @abstractmethod
    def hyperparameters(self) -> dict[str, Any]:
        """What its parts are made with, ready for JSON."""

    def tensors(self) -> dict[str, Tensor]:
        """What its file holds."""
        return self.state_dict()

    def header(self) -> model_file.Header:
        """What its file says beside them."""
        return model_file.header(self.method, self.problem, self.hyperparameters(), self.meta)

    def save(self, path: str | Path) -> None:
        """Writes the model as one safetensors file; it appears complete or not at all."""
        model_file.write(path, self.header(), self.tensors())

    @classmethod
    @abstractmethod
    def from_file(cls: type[M], head: model_file.Header, tensors: dict[str, Tensor]) -> M:
        """The model of what a file holds. Whatever it raises is told as a damaged file."""

    def card(self) -> str:
        """What the model is, how it was made and how well it does, as Markdown.

        Raises:
            ValueError: nothing is known of its training.
        """
        raise NotImplementedError(f"{type(self).__name__} has no card")


MODELS: dict[str, type[Model]] = {}  # by method, or "method:problem" where a problem has a family of its own


def register(*methods: str, problem: str = "") -> Callable[[type[M]], type[M]]:
    """Makes the class that it decorates the family of models of these methods, or of theirs for one problem."""

    def add(family: type[M]) -> type[M]:
        MODELS.update(dict.fromkeys([f"{m}:{problem}" if problem else m for m in methods], family))
        return family

    return add


def family_of(method: str, problem: str, where: str) -> type[Model]:
    """The family of models of a method for a problem.

    Raises:
        ValueError: there is none; `where` names the argument.
    """
    if f"{method}:{problem}" in MODELS:
        return MODELS[f"{method}:{problem}"]
    return MODELS[choice(method, [m for m in MODELS if ":" not in m], "load", where)]


def pretrained() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(p.name.removesuffix(".safetensors") for p in _shipped().iterdir() if p.name.endswith(".safetensors"))


def _shipped() -> Any:
    return resources.files("fastrecon.weights")


def load(name: str | Path) -> Model:
    """The model of that name (see `pretrained`), or of that file, on the CPU in evaluation mode.

    Raises:
        FileNotFoundError: no such file.
        ValueError: unknown name, or a damaged or foreign file.
    """
    expect(isinstance(name, str | Path), "load", "name", "a name or a path", named(name))
    if str(name) in pretrained():
        with resources.as_file(_shipped() / f"{name}.safetensors") as path:
            return _read(path)
    is_path = isinstance(name, Path) or name.endswith(".safetensors") or Path(name).exists()
    known = ", ".join(pretrained()) or "(none shipped)"
    expect(is_path, "load", "name", f"one of {known} or a .safetensors file", repr(name))
    return _read(io.existing(name))


def trained(
    method: str, problem: str, name: str = "", fits: Callable[[model_file.Header], bool] = lambda head: True
) -> Model:
    """A model of a method for a problem, on the CPU.

    Args:
        method: its name.
        problem: name of the problem; "": any.
        name: of the model, or its file; "": the first shipped one that is of this kind.
        fits: what the header of a shipped one must be besides.

    Raises:
        FileNotFoundError, ValueError: there is none, or it is of another kind.
    """
    what = f"a model of {method}" + (f" for {problem}" if problem else "")
    if not name:
        kind = [n for n, h in shipped(method, problem).items() if fits(h)]
        expect(bool(kind), method, "--model", what, "none, and no shipped one fits")
        return load(kind[0])
    model = load(name)
    same = model.method == method and problem in ("", model.problem)
    expect(same, method, "--model", what, f"{name}, of {model.method} for {model.problem}")
    return model


def is_model(text: str) -> bool:
    """Whether this is a model file of this package."""
    if not text.endswith(".safetensors") or not Path(text).is_file():
        return False
    try:
        load(text)
    except ValueError:
        return False
    return True


def shipped(method: str, problem: str = "") -> dict[str, model_file.Header]:
    """Headers of the shipped models of a method for a problem ("": any), by name."""
    heads = {n: _header(n) for n in pretrained()}
    return {n: h for n, h in heads.items() if h.method == method and problem in ("", h.problem)}


@cache
def _header(name: str) -> model_file.Header:
    """The header of a shipped model."""
    with resources.as_file(_shipped() / f"{name}.safetensors") as path:
        return model_file.read_header(path)


def in_precision(operator: LinearOperator, dtype: torch.dtype) -> LinearOperator:
    """The operator, or a copy whose tensors are of this real type."""
    own = [t for t in (*operator.parameters(), *operator.buffers()) if t.is_floating_point() or t.is_complex()]
    return operator if all(real_dtype(t) == dtype for t in own) else copy.deepcopy(operator).to(dtype)


def _read(path: Path) -> Model:
    head, tensors = model_file.read(path)
    family = family_of(head.method, head.problem, f"{io.shown(path)}: method")
    try:
        return family.from_file(head, tensors).eval()
    except Exception as e:  # whatever settings or tensors that do not fit make the parts trip over
        reason = f"{type(e).__name__}: {io.reason(e)}"
        raise ValueError(f"load: {io.shown(path)}: expected a complete model, got a damaged file ({reason})") from e
