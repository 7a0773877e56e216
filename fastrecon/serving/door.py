"""What a request over HTTP asks for: a body and options by name, as the command line takes them, but no name of a file.

`read` decodes, in any thread; `compute` runs where a scheduler computes; `answer` encodes, in any thread again.
"""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastrecon import io
from fastrecon.io.limits import TooLarge
from fastrecon.models import load
from fastrecon.models.base import Model
from fastrecon.options import flag_of, is_switch, options_of, parsed
from fastrecon.problems import file
from fastrecon.problems.base import PROBLEMS, Measurement, Problem
from fastrecon.serving import bodies
from fastrecon.solvers.automatic import ASKED
from fastrecon.solvers.methods import METHODS, Method, Outcome, Runner

OWN = ("problem", "method", "model", "simulate", "seed", "format", "deadline")
# Texts that can be no name of a file: numbers, ranges, sizes, words.
HARMLESS = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,40}|[0-9:,x+-]{1,60}(\.[0-9:,x+-]+){0,8}(e-?[0-9]{1,3})?(deg|rad)?")
LARGEST_MATRIX = 2**22  # numbers of a sampling matrix that a request lets be drawn
LONGEST = 500  # letters of a message


class Refusal(Exception):
    """What a request gets that is refused: a status and one line."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None):
        text = io.shown(" ".join(message.split()))
        super().__init__(text if len(text) <= LONGEST else f"{text[:LONGEST]}...")
        self.status, self.headers = status, dict(headers or {})


@dataclass(frozen=True)
class Work:
    """A request that has been read.

    Attributes:
        problem, m: what was measured.
        method, settings: how it is solved; `automatic`: the problem chooses by what was measured.
        kind: of the answer.
        model: the name of the model, or "".
        seconds: that the client would wait; None: as long as the server does.
    """

    problem: Problem[Any]
    m: Measurement
    method: Method
    settings: Any
    automatic: bool
    kind: bodies.Kind
    model: str
    seconds: float | None

    @property
    def images(self) -> int:
        """In the batch."""
        return len(self.m.y)

    @property
    def pixels(self) -> int:
        """Of all of them."""
        return self.images * self.m.size[0] * self.m.size[1]


@dataclass(frozen=True)
class Done:
    """What was computed: the outcome, and how."""

    outcome: Outcome
    first: torch.Tensor
    about: dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """What a client receives: the file, and the facts with the certificate; drawn, where it is asked for, as PNG of 8
    bits: the picture, and the map of errors or changes.
    """

    data: bytes
    kind: bodies.Kind
    facts: dict[str, Any]
    map: bytes = b""
    preview: bytes = b""


class Door:
    """Requests for these models.

    Args:
        models: what `load` takes, by the names that clients use.
        device: that computes.

    Raises:
        FileNotFoundError, ValueError: a model cannot be loaded.
    """

    def __init__(self, models: Mapping[str, str], device: torch.device | str = "cpu"):
        self.models, self.device = dict(models), torch.device(device)
        self.loaded: dict[str, Model] = {name: load(path) for name, path in self.models.items()}
        self._ready = lru_cache(maxsize=32)(self._prepared)

    def describe(self) -> list[dict[str, Any]]:
        """The models as plain facts."""
        return [
            {"name": name, "method": m.method, "problem": m.problem, "size": sum(p.numel() for p in m.parameters())}
            for name, m in self.loaded.items()
        ]

    def read(self, body: bytes, content_type: str, query: Mapping[str, str], accept: str = "") -> Work:
        """What is to be done.

        Raises:
            Refusal: 413, 415 or 422.
        """
        kind, declared = bodies.kind_of(body[:16]), content_type.partition(";")[0].strip().lower()
        names = ", ".join(k.types[0] for k in bodies.KINDS)
        if kind is None or (declared not in bodies.ANY and bodies.kind_named(declared) is not kind):
            got = f"{declared or 'no type'} with {'a body of no such kind' if kind is None else kind.types[0]}"
            raise Refusal(415, f"content-type: expected one of {names}, got {got}")
        with bodies.spooled(body, kind) as path:
            try:
                return self._read(path, kind, query, accept)
            except Refusal:
                raise
            except Exception as e:  # readers raise whatever a hostile file makes them trip over
                raise Refusal(413 if _too_large(e) else 422, told(e, path)) from e

    def _read(self, path: Path, kind: bodies.Kind, query: Mapping[str, str], accept: str) -> Work:
        simulate, seed = _switch(query, "simulate"), _integer(query, "seed", 2**32 - 1)
        problem, method, model = self._chosen(path, query)
        texts = tuple(f.name for f in options_of(problem.Options) if _is_text(f))
        source, files = bodies.unpacked(path, texts)
        brought = {} if model is None else model.problem_options()
        told_options, settings = self._options(query, problem, method, simulate)
        named = str(query.get("method", "auto"))
        automatic = named == "auto" and model is None and not settings
        if model is not None:
            settings["model"] = self.models[query["model"]]
        chosen, seconds = method.Options(**settings), _seconds(query)
        by_name = _named_kind(query)
        options = problem.Options(**(brought | told_options | files))
        m = self._measured(problem, source, options, seed if simulate else None)
        numbers = m.facts.get("count", 0), m.facts.get("block", 1)
        if all(isinstance(n, int) for n in numbers):
            count, block = int(numbers[0]), int(numbers[1])  # type: ignore[arg-type]
            _expect(
                count * block**2 <= LARGEST_MATRIX, "--block", f"a matrix of at most {LARGEST_MATRIX} numbers", "more"
            )
        kind = by_name or _accepted_kind(accept, m)
        return Work(problem, m.to(self.device), method, chosen, automatic, kind, query.get("model", ""), seconds)

    def _chosen(self, path: Path, query: Mapping[str, str]) -> tuple[Problem[Any], Method, Model | None]:
        """Problem, method and model: by name, by the model, or by the file."""
        name, wanted, known = query.get("problem"), query.get("method", "auto"), query.get("model")
        _expect(known is None or known in self.loaded, "--model", f"one of {', '.join(self.loaded)}", repr(known))
        model = None if known is None else self.loaded[known]
        if name is None and model is not None and model.problem:
            name = model.problem
        if name is None:
            name = file.problem_of(path) if path.suffix in io.MEASUREMENT_SUFFIXES else None
        _expect(name in PROBLEMS, "--problem", f"one of {', '.join(PROBLEMS)}", "none" if name is None else repr(name))
        problem = PROBLEMS[str(name)]
        if model is not None:
            _expect(model.problem in (name, ""), "--model", f"a model for {name}", f"one for {model.problem}")
            _expect(wanted in ("auto", model.method), "--method", f"{model.method}, that of --model", repr(wanted))
            wanted = model.method
        wanted = problem.methods[0] if wanted == "auto" else wanted
        fits = [m for m in METHODS if METHODS[m].solves(problem.name)]
        _expect(wanted in fits, "--method", f"one of {', '.join(fits)} for {problem.name}", repr(wanted))
        return problem, METHODS[wanted], model

    def _options(
        self, query: Mapping[str, str], problem: Problem[Any], method: Method, simulate: bool
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The options of the problem and of the method among the words of a request."""
        found: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
        kinds = (problem.Options, method.Options)
        known = {f.name: (k, f) for k, kind in enumerate(kinds) for f in options_of(kind) if f.name != "model"}
        for word, text in query.items():
            name = word.replace("-", "_")
            if name in OWN:
                continue
            _expect(name in known, flag_of(name), f"one of {', '.join(sorted(known))}", "an unknown option")
            k, field = known[name]
            of_simulation = field.metadata.get("of") == "simulate"
            _expect(simulate or not of_simulation, flag_of(name), "it with --simulate only", "it without")
            if _is_text(field):
                harmless = HARMLESS.fullmatch(text) is not None and not Path(text).exists()
                expected = f"a number or a word; an array goes into the body, as {name} beside {bodies.MEASURED}"
                _expect(harmless, flag_of(name), expected, "something else")
            try:
                found[k][name] = _value(field, text)
            except Refusal:
                raise
            except Exception as e:
                raise Refusal(422, f"{flag_of(name)}: {told(e)}") from e
        return found

    def _measured(self, problem: Problem[Any], path: Path, options: Any, seed: int | None) -> Measurement:
        """What a body holds; with a seed what is measured of the picture in it."""
        if seed is not None:
            return problem.simulate(io.read_picture(path), options, seed)
        known = problem.suffixes is None or path.suffix in (*problem.suffixes, *io.MEASUREMENT_SUFFIXES)
        expected = f"measurements ({', '.join(problem.suffixes or ())}), or simulate=true to measure a picture first"
        _expect(known, "body", expected, f"a picture ({path.suffix})")
        return file.measured(problem, path, options)

    def _prepared(self, method: str, settings: Any) -> Runner:
        return METHODS[method].prepare(settings, self.device)

    @torch.no_grad()
    def compute(self, work: Work) -> Done:
        """Solves it, as the command line does.

        Raises:
            ValueError, RuntimeError: the measurements do not fit the method.
        """
        began = time.perf_counter()
        inverse = work.problem.inverse(work.m)
        method, settings, why = work.method, work.settings, ASKED
        if work.automatic:
            chosen = work.problem.auto(inverse)
            why, (method, settings) = chosen.why, chosen.with_options(settings)
        outcome = self._ready(method.name, settings)(inverse)
        first = inverse.first() if outcome.start is None else outcome.start
        if not bool(torch.isfinite(outcome.x).all()):
            raise ValueError("reconstruct: the iterations diverged: the method is not made for such measurements")
        model = work.model or ("" if outcome.model in self.models.values() else outcome.model)
        about = {"method": method.name, "why": why, "model": model or None, "seconds": time.perf_counter() - began}
        return Done(outcome, first, about)

    def answer(self, work: Work, done: Done, drawn: bool = False) -> Answer:
        """What the client receives.

        Args:
            work, done: what was asked, and what came of it.
            drawn: whether with preview and map.

        Raises:
            Refusal: 422, the kind of file cannot hold such a picture.
        """
        x, m, problem = done.outcome.x, work.m, work.problem
        pixels = problem.pixels(x, m)
        report = done.outcome.report
        truth = None if m.truth is None else problem.pixels(m.truth, m)
        facts = {
            "problem": problem.name, **done.about, "size": list(pixels.shape[:2]), "scale": m.scale,
            "noise": None if m.noise is None else m.noise * m.scale, "notes": list(m.remarks),
            "scores": problem.scores(x, m), "map": "change" if truth is None else "error",
            "certificate": None if report is None else report.merged(work.images).to_dict(0),
        }  # fmt: skip
        facts = io.finite(facts)
        form, kind = m.form, work.kind
        white = 1.0 if form.dtype.startswith("uint") else m.scale
        png = kind.suffix == ".png"
        dtype = form.dtype if form.suffix == kind.suffix else "uint8" if png else pixels.dtype.name
        try:
            data = bodies.packed(pixels / white if png else pixels, kind, dtype, facts)
        except ValueError as e:
            raise Refusal(422, told(e)) from e
        if not drawn:
            return Answer(data, kind, facts)
        other = problem.pixels(done.first, m) if truth is None else truth
        return Answer(data, kind, facts, _map(pixels, other), _preview(np.abs(pixels) / white))


def told(e: BaseException, path: Path | None = None) -> str:
    """What an error says, in which the file of a body is called that."""
    text = str(e) or type(e).__name__
    if path is not None:
        for name in (path, *(p for p in (path.with_name(f"{n}.npy") for n in _names(text)) if str(p) in text)):
            text = text.replace(str(name), "body" if name == path else f"body: {name.stem}")
        text = text.replace(str(path.parent), "")
    return text


def _names(text: str) -> list[str]:
    return re.findall(r"/([A-Za-z_]{1,40})\.npy", text)


def _too_large(e: BaseException | None) -> bool:
    while e is not None and not isinstance(e, TooLarge | MemoryError):
        e = e.__cause__
    return e is not None


def _expect(condition: bool, flag: str, expected: str, got: str) -> None:
    if not condition:
        raise Refusal(422, f"{flag}: expected {expected}, got {got[:60]}")


def _is_text(field: Any) -> bool:
    """Whether an option takes any text, also names of files."""
    kind = field.metadata.get("type", float if "within" in field.metadata else str)
    return kind is str and not field.metadata.get("choices") and not is_switch(field)


def _value(field: Any, text: str) -> Any:
    """What a word means for an option."""
    if is_switch(field):
        return _truth(flag_of(field.name), text)
    if "nargs" in field.metadata:
        return [parsed(field, part) for part in text.split(",")]
    return parsed(field, text)


def _truth(flag: str, text: str) -> bool:
    _expect(text.lower() in ("0", "1", "true", "false"), flag, "true or false", repr(text))
    return text.lower() in ("1", "true")


def _switch(query: Mapping[str, str], name: str) -> bool:
    return _truth(f"--{name}", query.get(name, "false"))


def _integer(query: Mapping[str, str], name: str, most: int) -> int:
    text = query.get(name, "0")
    good = text.isascii() and text.isdigit() and len(text) < 12 and int(text) <= most
    _expect(good, f"--{name}", f"an integer from 0 to {most}", repr(text))
    return int(text)


def _named_kind(query: Mapping[str, str]) -> bodies.Kind | None:
    """The kind of the answer that `format` names."""
    wanted, known = query.get("format"), {k.suffix[1:]: k for k in bodies.ANSWERS}
    _expect(wanted is None or wanted in known, "--format", f"one of {', '.join(known)}", repr(wanted))
    return None if wanted is None else known[wanted]


def _accepted_kind(accept: str, m: Measurement) -> bodies.Kind:
    """The kind of the answer: the first that the client accepts, else as the input was."""
    for media_type in accept.split(","):
        if (found := bodies.kind_named(media_type, bodies.ANSWERS)) is not None:
            return found
    return next((k for k in bodies.ANSWERS if k.suffix == m.form.suffix), bodies.ANSWERS[0])


def _seconds(query: Mapping[str, str]) -> float | None:
    text = query.get("deadline")
    if text is None:
        return None
    good = re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", text) is not None and float(text) > 0
    _expect(good, "--deadline", "a number of seconds > 0", repr(text))
    return float(text)


def _map(pixels: np.ndarray, other: np.ndarray) -> bytes:
    """How far pixels differ from others, as PNG: white is the largest difference."""
    far = np.abs(pixels.astype(np.complex128) - other) if other.shape == pixels.shape else np.zeros(pixels.shape)
    far = far if far.ndim == 2 else far.mean(-1)
    return _preview(far / max(far.max(), 1e-30))


def _preview(pixels: np.ndarray) -> bytes:
    clean = np.nan_to_num(np.abs(pixels).astype(np.float32), nan=0.0, posinf=1.0, neginf=0.0)
    return bodies.encoded(clean, ".png", "uint8", "preview")
