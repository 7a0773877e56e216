"""One reconstruction and everything that is written about it: image, figures, report."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import fastrecon
from fastrecon import io, registry
from fastrecon.certificates import Report
from fastrecon.cli import arguments, cs
from fastrecon.cli.progress import Progress
from fastrecon.metrics import psnr
from fastrecon.models import BlockSensingModel
from fastrecon.solvers.convergent import reductions_left
from fastrecon.solvers.descent import State

if TYPE_CHECKING:
    from fastrecon.figures import Curves


@dataclass(frozen=True)
class Options:
    """What to compute and what to write.

    Attributes:
        rigorous: iterate to convergence after the trained phases, until `tol` or `max_iterations` (see LDA.solve).
        bits: of the image: 8 or 16 (PNG), or 32 (float TIFF, not clipped).
        figure: whether to draw the figures.
        maps: whether to draw the feature maps.
    """

    rigorous: bool = False
    tol: float = 1.5e-5
    max_iterations: int = 50_000
    bits: int = 8
    figure: bool = True
    maps: bool = False


def produce(
    model: BlockSensingModel,
    m: io.Measurements,
    prefix: Path,
    options: Options,
    reference: np.ndarray | None = None,
    progress: Progress | None = None,
    **about: Any,
) -> dict[str, Any]:
    """Reconstructs one image and writes `prefix`_reconstruction.png, `prefix`_report.json and the figures.

    Args:
        model: the reconstructor.
        m: measurements of one image.
        prefix: folder and first part of the names of the files.
        options: what to compute and write.
        reference: the true image [H, W], if known.
        progress: is told of phases and iterations.
        about: what else the report shall hold.

    Returns:
        The report without the history of the iterations, ready for JSON.
    """
    watch = Watch(model, m, reference, options.tol, progress)
    limits = {"tol": options.tol, "max_iterations": options.max_iterations, "progress": watch}
    more = limits if options.rigorous else {"progress": watch.phase}
    found = cs.reconstruct(model, m, options.rigorous, **more)
    history = {k: v[:, 0].tolist() for k, v in (found.report.history or {}).items()}
    scores = None
    if reference is not None:
        scores = {"start": cs.scores(found.start, reference), "reconstruction": cs.scores(found.image, reference)}

    files = {"reconstruction": _named(prefix, "reconstruction.tif" if options.bits == 32 else "reconstruction.png")}
    io.write_image(files["reconstruction"], found.image, options.bits)
    notes = about.get("notes", ())
    drawn = _figures(model, found, history, watch.psnr, scores, prefix.name, options, reference, notes)
    for name, figure in drawn.items():
        files[name] = _named(prefix, f"{name}.png")
        io.write_figure(files[name], figure)
    files["report"] = _named(prefix, "report.json")
    report = about | {
        "fastrecon": fastrecon.__version__, "model": name_of(model), "ratio": model.meta.get("ratio"),
        "blockwise": model.blockwise, "size": list(found.image.shape), "device": str(model.q.device),
        "backend": backend(model.q.device), "seconds": found.seconds, "scores": scores,
        "certificate": certificate(found.report), "files": files,
    }  # fmt: skip
    io.write_json(files["report"], report | {"history": history | ({"psnr": watch.psnr} if watch.psnr else {})})
    return report


def ends(options: Options) -> list[str]:
    """How the names of the files end that `produce` may write, the last one last."""
    drawn = {"figure": options.figure, "convergence": options.figure and options.rigorous, "maps": options.maps}
    image = "reconstruction.tif" if options.bits == 32 else "reconstruction.png"
    return [f"_{name}" for name in (image, *(f"{k}.png" for k, wanted in drawn.items() if wanted), "report.json")]


def _figures(
    model: BlockSensingModel, found: cs.Reconstruction, history: "Curves", psnr_history: list[float],
    scores: dict[str, Any] | None, name: str, options: Options, reference: np.ndarray | None, notes: Sequence[str],
) -> dict[str, Any]:  # fmt: skip
    drawn: dict[str, Any] = {}
    if not (options.figure or options.maps):
        return drawn
    from fastrecon import figures

    title = f"{name} · {name_of(model)}" + (" · rigorous mode" if options.rigorous else "")
    title += "".join(f"\n{note}" for note in notes if note.startswith("assumed"))
    captions = [what + _caption(scores and scores[what]) for what in ("start", "reconstruction")]
    if options.figure:
        drawn["figure"] = figures.reconstruction(found.start, found.image, reference, title, captions, history)
    if options.figure and options.rigorous:
        threshold = model.solver.sigma * model.solver.gamma
        drawn["convergence"] = figures.convergence(history, threshold, found.report.trained_phases, psnr_history, title)
    if options.maps:
        x = torch.from_numpy(found.image)[None, None].to(model.q)
        norms = model.solver.regulariser.feature_norms(x)[0].float().cpu().numpy()
        drawn["maps"] = figures.feature_maps(found.image, norms, title)
    return drawn


@dataclass
class Watch:
    """Follows phases; in the rigorous mode the reductions of eps, and the PSNR of every iteration.

    Attributes:
        bar: is told how many are done, of those that the termination test needs.
        psnr: dB, clipped to [0, 1], one value per iteration after the trained phases; empty without a reference.
    """

    model: BlockSensingModel
    m: io.Measurements
    reference: np.ndarray | None
    tol: float
    bar: Progress | None
    psnr: list[float] = field(default_factory=list)
    reductions: int = 0

    def phase(self, k: int, _: State) -> None:
        """After trained phase k = 1, 2, ..."""
        if self.bar is not None:
            self.bar.part(k, self.model.solver.phases, "phases")

    def __call__(self, iteration: int, s: State) -> None:
        """After every iteration."""
        solver = self.model.solver
        if self.bar is not None:
            left = int(reductions_left(s.eps.detach().cpu(), solver.sigma, solver.gamma, self.tol).max())
            self.reductions = self.reductions or left + 1
            self.bar.part(self.reductions - left, self.reductions, "reductions of eps", iteration=iteration + 1)
        if self.reference is not None:
            x = s.x
            if self.model.blockwise:
                x = self.model.operator.to_image(x.reshape(1, *self.m.y.shape[:2], -1), self.m.size)
            ref = torch.from_numpy(self.reference)[None, None].to(x)
            self.psnr.append(psnr(x.clamp(0, 1), ref).item())


def certificate(report: Report) -> dict[str, Any]:
    """The certificate of the report's one image, and whether its merit never increased where that is guaranteed."""
    merit = (report.history or {}).get("merit", torch.empty(0, 1))[report.trained_phases :, 0]
    never = bool((merit.diff() <= 0).all()) if len(merit) > 1 else None
    return report.to_dict(0) | {"merit_never_increased": never}


def name_of(model: BlockSensingModel) -> str:
    """The model's name, or its method."""
    return model.name


def backend(device: torch.device) -> str:
    """What computes the regulariser on this device."""
    return registry.backends()["feature_gradient_fwd"][device.type]


def summary(c: dict[str, Any]) -> str:
    """A certificate in one line."""
    monotone = {None: "", True: ", merit never increased", False: ", merit increased"}[c["merit_never_increased"]]
    return (
        f"{c['status']} ({c['iterations']} iterations): objective {arguments.number(c['phi'], '.6g')},"
        f" gradient norm {arguments.number(c['grad_norm'], '.3g')} at eps {c['eps']:.3g}{monotone}"
    )


def _named(prefix: Path, end: str) -> Path:
    return prefix.with_name(f"{prefix.name}_{end}")


def _caption(s: dict[str, Any] | None) -> str:
    if s is None:
        return ""
    return f"\n{s['psnr']:.2f} dB" + ("" if s["ssim"] is None else f"  SSIM {s['ssim']:.4f}")
