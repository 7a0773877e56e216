"""One picture and everything that is written about it: the picture, figures, the report. One schema for all problems.

The report is described in docs/report.md; `SCHEMA` changes where a key goes or means something else.
"""

import dataclasses
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import fastrecon
from fastrecon import io, registry
from fastrecon.certificates import TRAINED_ONLY, Certificate
from fastrecon.cli import arguments
from fastrecon.cli.progress import Progress
from fastrecon.problems.base import Measurement, Problem
from fastrecon.solvers.automatic import ASKED
from fastrecon.solvers.methods import Inverse, Method, Outcome, Runner

SCHEMA = "fastrecon report 1"
_drawing = threading.Lock()  # of figures: matplotlib's fonts are one thread's at a time
DENSE, SPARSE = 100, 50  # of every iteration up to DENSE the quality is recorded, later about SPARSE of each 1,000


@dataclass(frozen=True)
class Writing:
    """What to write beside the report.

    Attributes:
        bits: of the picture: 8, 16, 32; None: as the input.
        figure: whether to draw the figures.
        extras: names of maps of the method that are drawn.
        maps: names of those of the problem, written as grey pictures.
    """

    bits: int | None = None
    figure: bool = True
    extras: tuple[str, ...] = ()
    maps: tuple[str, ...] = ()

    def form(self, m: Measurement) -> io.Form:
        """The kind of file of the picture."""
        return m.form if self.bits is None else m.form.with_bits(self.bits)

    def ends(self, form: io.Form | None = None) -> list[str]:
        """How the names of the files of one input end, the report last; without a form, of pictures in any."""
        suffixes = io.Form.SUFFIXES if form is None else (form.suffix,)
        figures = [f"_{name}.png" for name in (*(("figure",) if self.figure else ()), *self.maps, *self.extras)]
        return [*(f"_reconstruction{suffix}" for suffix in suffixes), *figures, "_report.json"]


@dataclass
class Watch:
    """Follows a method: tells the progress, and records the quality of the picture where the truth is known.

    Attributes:
        spent: seconds of the watching itself.
        quality: iterations, seconds of the method until then, and NMSE in dB.
    """

    problem: Problem[Any]
    m: Measurement
    progress: Progress | None
    began: float = field(default_factory=time.perf_counter)
    spent: float = 0.0
    quality: dict[str, list[float]] = field(default_factory=lambda: {"iteration": [], "seconds": [], "nmse_db": []})
    calls: int = 0

    def __call__(self, done: float, total: float, x: Callable[[], Tensor], what: str = "iterations") -> None:
        """After every iteration."""
        self.calls += 1
        if self.progress is not None:
            self.progress.part(done, total, what)
        every = 1 if self.calls <= DENSE else max(1, self.calls // SPARSE)
        if self.m.truth is None or self.calls % every:
            return
        begin = time.perf_counter()
        synchronise(self.m.y.device)
        seconds = begin - self.began - self.spent
        found, truth = (self.problem.images(t, self.m) for t in (x(), self.m.truth))
        ratio = (found - truth).abs().square().sum(dtype=torch.float64) / truth.abs().square().sum(dtype=torch.float64)
        for name, value in (("iteration", self.calls), ("seconds", seconds), ("nmse_db", 10 * ratio.log10().item())):
            self.quality[name].append(float(value))
        self.spent += time.perf_counter() - begin


@dataclass(frozen=True)
class Job:
    """What is done with every input: problem, method and how they were asked for, and what to write.

    `automatic`: the problem chooses the method for each, and that of the job is the one with these `options`.
    """

    problem: Problem[Any]
    runner: Runner
    writing: Writing
    device: torch.device
    about: Mapping[str, Any]
    options: Any = None
    automatic: bool = False

    def ready(self, inverse: Inverse) -> tuple[Runner, dict[str, Any]]:
        """What runs for measurements, and which method that is and why."""
        if not self.automatic:
            return self.runner, dict(self.about) | {"why": ASKED}
        chosen = self.problem.auto(inverse)
        if chosen.method == self.about["method"] and not chosen.settings:
            return self.runner, dict(self.about) | {"why": chosen.why}
        one, options = chosen.with_options(self.options)
        told = {"method": one.name, "method_options": plain(options), "model": getattr(options, "model", None)}
        return self._prepared(one, options), dict(self.about) | told | {"why": chosen.why}

    @cached_property
    def _prepared(self) -> Callable[[Method, Any], Runner]:
        """Methods with options, each made ready once: models are read from files."""
        return lru_cache(maxsize=8)(lambda one, options: one.prepare(options, self.device))

    def compute(self, m: Measurement, progress: Progress | None = None) -> "Made":
        """Reconstructs a picture.

        Raises:
            RuntimeError: the iterations diverged.
        """
        m = m.to(self.device)
        with torch.no_grad():
            inverse = self.problem.inverse(m)
            runner, about = self.ready(inverse)
            watch = Watch(self.problem, m, progress)
            outcome = runner(inverse, watch)
            synchronise(self.device)
            seconds = time.perf_counter() - watch.began - watch.spent
            first = inverse.first() if outcome.start is None else outcome.start
        if not bool(torch.isfinite(outcome.x).all()):
            largest = f"|y| up to {m.y.abs().max().item():.3g}"
            raise RuntimeError(f"reconstruct: the iterations diverged: the method is not made for this ({largest})")
        return Made(self, m, outcome, first, about, seconds, watch.quality)


@dataclass(frozen=True)
class Made:
    """A picture that was reconstructed, before anything of it is written.

    Attributes:
        job: that it was made by.
        m: what it was made from.
        outcome, first: what came out, and what it began with.
        about: method, why, and how they were asked for.
        seconds: that the method took.
        quality: over the iterations, see Watch.
    """

    job: Job
    m: Measurement
    outcome: Outcome
    first: Tensor
    about: dict[str, Any]
    seconds: float
    quality: dict[str, list[float]]

    @torch.no_grad()
    def write(self, prefix: Path, source: object) -> dict[str, Any]:
        """Writes the picture with figures and report, whose contents without histories come back."""
        problem, writing, device = self.job.problem, self.job.writing, self.job.device
        m, outcome, about = self.m, self.outcome, dict(self.about)
        scores = None
        if m.truth is not None:
            scores = {"start": problem.scores(self.first, m), "reconstruction": problem.scores(outcome.x, m)}
        pixels, form = problem.pixels(outcome.x, m), writing.form(m)
        files = {"reconstruction": io.write_picture(prefix.with_name(f"{prefix.name}_reconstruction"), pixels, form)}
        maps = problem.maps_of(outcome.x, m)
        for name, values in maps.items():
            files[name] = io.write_picture(prefix.with_name(f"{prefix.name}_{name}"), values, io.Form())
        histories = _history(outcome.report)
        if self.quality["iteration"]:
            histories["quality"] = self.quality
        about["model"] = about["model"] or outcome.model or None
        told = about["model"] if about["model"] and about["model"] != about["method"] else ""
        title = f"{prefix.name} · {about['method']}" + (f" ({told})" if told else "")
        with _drawing:
            if writing.figure:
                drawn = _figure(problem, m, self.first, outcome.x, scores, histories, title, maps)
                files["figure"] = prefix.with_name(f"{prefix.name}_figure.png")
                io.write_figure(files["figure"], drawn)
            for name, values in outcome.extras.items():
                from fastrecon import figures

                files[name] = prefix.with_name(f"{prefix.name}_{name}.png")
                picture = np.abs(pixels) if pixels.ndim == 2 else np.abs(pixels).mean(-1)
                io.write_figure(files[name], figures.feature_maps(picture, values[0].float().cpu().numpy(), title))
        files["report"] = prefix.with_name(f"{prefix.name}_report.json")
        report = {
            "schema": SCHEMA, "fastrecon": fastrecon.__version__, "input": source, "notes": list(m.remarks),
            "problem": problem.name, **about, "simulated": m.truth is not None,
            "size": list(pixels.shape[:2]), "channels": 1 if pixels.ndim == 2 else pixels.shape[2],
            "noise": None if m.noise is None else m.noise * m.scale, "scale": m.scale, "device": str(device),
            "backend": backend(device), "seconds": self.seconds, "scores": scores,
            "certificate": certificate(outcome.report, len(m.y)), "files": files,
        }  # fmt: skip
        io.write_json(files["report"], report | {"history": histories})
        return report


def synchronise(device: torch.device) -> None:
    """Waits for a device, before a clock is read."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def backend(device: torch.device) -> str:
    """What computes on this device."""
    return registry.backends()["feature_gradient_fwd"][device.type]


def certificate(report: Certificate | None, channels: int) -> dict[str, Any] | None:
    """The certificate of a picture as plain numbers, and whether its merit never increased where that is promised."""
    if report is None:
        return None
    found = report.merged(channels).to_dict(0)
    merit = (report.history or {}).get("merit")
    if merit is not None:
        after = merit[getattr(report, "trained_phases", 0) :]
        found["merit_never_increased"] = bool((after.diff(dim=0) <= 0).all()) if len(after) > 1 else None
    return found


def summary(c: Mapping[str, Any] | None) -> str:
    """A certificate in one line."""
    if c is None:
        return "no certificate: a network's answer"
    if "residual" in c:
        told = f"misfit {arguments.number(c['misfit'], '.3g')}, weight {arguments.number(c['weight'], '.2g')}"
        steps = f"{c['iterations']} iterations" if c["iterations"] else "closed form"
        return f"{c['status']} ({steps}): {told}, normal equations to {arguments.number(c['relative_residual'], '.2g')}"
    if "relative_misfit" in c:
        relative = arguments.number(c["relative_misfit"], ".2g")
        return f"{c['status']}: |A x - y| = {arguments.number(c['misfit'], '.3g')}, {relative} of |y|"
    if c["status"] == TRAINED_ONLY:  # what they make of an objective that they do not minimise is in the report
        return f"{TRAINED_ONLY} ({c['iterations']}), no stationary point"
    words = [f"objective {arguments.number(c.get('phi', c.get('objective')), '.6g')}"]
    if "grad_norm" in c:
        radius = f" at eps {c['eps']:.3g}" if "eps" in c else ""
        words.append(f"gradient norm {arguments.number(c['grad_norm'], '.3g')}{radius}")
    if "gap" in c and ("prox_gap" not in c or c["gap"] is not None):  # of the objective itself it may not be known
        words.append(f"duality gap {arguments.number(c['gap'], '.3g')}")
    if "relative_gradient" in c:
        words.append(f"{arguments.number(c['relative_gradient'], '.2g')} of the pull of the prior")
    if c.get("beyond_training"):
        words.append("the prior was never trained for such noise")
    if "relative_dual" in c:
        both = (arguments.number(c[name], ".2g") for name in ("relative_primal", "relative_dual"))
        words.append(f"residuals {' and '.join(both)}")
    if "relative_step" in c:
        words.append(f"relative step {arguments.number(c['relative_step'], '.2g')}")
    monotone = {None: "", True: "merit never increased", False: "merit increased"}[c.get("merit_never_increased")]
    text = ", ".join([*words, *([monotone] if monotone else [])])
    return f"{c['status']} ({c['iterations']} iterations): {text}"


def line(report: Mapping[str, Any]) -> str:
    """A report in one line."""
    scores = report["scores"] and report["scores"]["reconstruction"]
    quality = f"PSNR {scores['psnr']:.2f} dB, " if scores else ""
    quality += f"SSIM {scores['ssim']:.4f}, " if scores and scores["ssim"] is not None else ""
    names = f"{io.shown(report['input'])} -> {io.shown(report['files']['reconstruction'])}"
    chosen = report["method"] + ("" if report["why"] == ASKED else f" ({report['why']})")
    told = f"{quality}{chosen}, {report['seconds']:.3f} s; {summary(report['certificate'])}"
    return f"{names}: {told}{arguments.remarks(report['notes'])}"


def _history(report: Certificate | None) -> dict[str, Any]:
    """Rows of every iteration, sums or norms over channels left to the reader: the first channel's."""
    found = {} if report is None else report.history or {}
    return {name: values[:, 0].tolist() for name, values in found.items()}


def _figure(
    problem: Problem[Any], m: Measurement, first: Tensor, x: Tensor, scores: Any, history: Mapping[str, Any],
    title: str, maps: Mapping[str, np.ndarray],
) -> Any:  # fmt: skip
    from fastrecon import figures

    shown = [problem.pixels(t, m) / m.scale for t in ((first, x) if m.truth is None else (m.truth, first, x))]
    names = ["start", "reconstruction"]
    captions = [name + _caption(scores and scores[name]) for name in names]
    if m.truth is not None:
        captions.insert(0, "reference\n")
    notes = "".join(f"\n{note}" for note in m.notes if note.startswith("assumed"))
    return figures.picture(shown, captions, title + notes, history, maps)


def _caption(s: Mapping[str, Any] | None) -> str:
    if s is None:
        return ""
    return f"\n{s['psnr']:.2f} dB" + ("" if s["ssim"] is None else f"  SSIM {s['ssim']:.4f}")


def plain(options: Any) -> dict[str, Any]:
    """Options as plain values for the report."""
    found = {f.name: getattr(options, f.name) for f in dataclasses.fields(options)}
    return {k: v if v is None or isinstance(v, str | int | float | list | tuple) else "given" for k, v in found.items()}
