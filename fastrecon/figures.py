"""Figures as matplotlib Figure objects: no pyplot, no global state, nothing shown.

Images are arrays [H, W] on the [0, 1] scale; curves are sequences with one value for each phase or iteration.
"""

import contextlib
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, cast

import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, get_font
from matplotlib.ticker import MaxNLocator

from fastrecon import io

# Okabe & Ito: told apart with any colour vision
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#777777"
CELL = 3.0  # inches: width of an image
CURVES = 2.1  # inches: height of a row of curves
FEW = 40  # points: up to here each is marked
LONGEST = 90  # characters of a line of a heading
NO_GLYPH = "\u25a1"  # stands for a character that the font lacks, of which matplotlib would warn
AS_IT_IS: dict[str, Any] = {"parse_math": False, "usetex": False}  # of texts from outside: $ is a character

Curves = Mapping[str, Sequence[float]]


def reconstruction(
    start: np.ndarray,
    result: np.ndarray,
    reference: np.ndarray | None,
    title: str,
    captions: Sequence[str],
    history: Curves,
) -> Figure:
    """Reference, start, reconstruction and error side by side; below, objective, gradient norm and eps in each phase.

    Args:
        start: initial image [H, W].
        result: reconstruction [H, W].
        reference: the true image [H, W]; without it, only start and result are shown.
        title: heading.
        captions: of start and result.
        history: `phi_eps`, `merit`, `grad_norm` and `eps`, one value for each phase from the start on.
    """
    images = [(start, captions[0]), (result, captions[1])]
    if reference is not None:
        images.insert(0, (reference, "reference\n"))
    columns = 4
    height = float(np.clip(CELL * result.shape[0] / result.shape[1], 1, 2 * CELL))
    figure = Figure(figsize=(CELL * columns, height + CURVES + 1.1), layout="constrained")
    _heading(figure, title)
    top, bottom = cast(Any, figure.subfigures(2, 1, height_ratios=[height + 0.6, CURVES]))
    axes = top.subplots(1, columns) if reference is not None else top.subplots(1, 2)
    for ax, (pixels, caption) in zip(axes, images, strict=False):
        _image(ax, pixels, caption)
    if reference is not None:
        error = np.abs(result.clip(0, 1) - reference)
        limit = _limit(error, 0.998, 1e-6)
        _colorbar(top, axes[3], _image(axes[3], error, "|reconstruction - reference|\n", "magma", limit))
    phases = np.arange(len(history["phi_eps"]))
    objective, gradient, radius = bottom.subplots(1, 3)
    _bounds(objective, phases, history)
    _curve(gradient, phases, history["grad_norm"], RED)
    _curve(radius, phases, history["eps"], GREEN)
    names = ("objective", r"$\|\nabla\phi_\varepsilon\|$", r"smoothing radius $\varepsilon$")
    for ax, name in zip((objective, gradient, radius), names, strict=True):
        _axes(ax, "phase" if len(phases) <= FEW else "iteration", name, log=len(phases) > FEW)
    return figure


def before_after(images: Sequence[np.ndarray], captions: Sequence[str], title: str) -> Figure:
    """Images [H, W] of one size side by side, on the [0, 1] scale."""
    height = float(np.clip(CELL * images[0].shape[0] / images[0].shape[1], 1, 2 * CELL))
    figure = Figure(figsize=(CELL * len(images), height + 0.9), layout="constrained")
    _heading(figure, title)
    axes = cast(Any, figure.subplots(1, len(images), squeeze=False))[0]
    for ax, pixels, caption in zip(axes, images, captions, strict=True):
        _image(ax, pixels, caption)
    return figure


def layers(curves: Mapping[str, Sequence[float]], ylabel: str, title: str) -> Figure:
    """One curve for each method over its layers or iterations 1, 2, ...; the first is drawn in red."""
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    _heading(figure, title)
    ax = figure.subplots()
    shades = ("#0072B2", "#56B4E9", "#009E73", "#E69F00", "#CC79A7", GREY)
    for k, (name, values) in enumerate(curves.items()):
        color = RED if k == 0 else shades[(k - 1) % len(shades)]
        _curve(ax, 1 + np.arange(len(values)), values, color, name)
    _axes(ax, "layer or iteration", ylabel)
    ax.legend(fontsize=8, frameon=False)
    return figure


def convergence(history: Curves, threshold: float, trained: int, psnr: Sequence[float], title: str) -> Figure:
    """A run to convergence: objective and merit, gradient norm and its threshold, eps, and PSNR against iterations.

    Args:
        history: `phi_eps`, `merit`, `grad_norm` and `eps`, one value for each iteration from the start on.
        threshold: sigma gamma: eps is reduced where the gradient norm is below `threshold` * eps.
        trained: trained phases; the guarantee holds from there on.
        psnr: dB after each iteration beyond them; may be empty.
        title: heading.
    """
    iterations = np.arange(len(history["eps"]))
    figure = Figure(figsize=(11, 6.6), layout="constrained")
    _heading(figure, title)
    (objective, gradient), (radius, quality) = figure.subplots(2, 2)
    _bounds(objective, iterations, history)
    _axes(objective, "iteration", "objective", log=True)
    _curve(gradient, iterations, history["grad_norm"], RED, r"$\|\nabla\phi_\varepsilon(x_k)\|$")
    limits = threshold * np.asarray(history["eps"])
    _curve(
        gradient, iterations, limits, GREY, r"$\sigma\gamma\varepsilon$: below it $\varepsilon$ shrinks", linestyle="--"
    )
    _axes(gradient, "iteration", "gradient norm", log=True)
    _curve(radius, iterations, history["eps"], GREEN)
    _axes(radius, "iteration", r"smoothing radius $\varepsilon$", log=True)
    if len(psnr):
        _curve(quality, trained + 1 + np.arange(len(psnr)), psnr, BLUE)
        _axes(quality, "iteration", "PSNR (dB)")
        quality.set_xlim(radius.get_xlim())
    else:
        quality.set_axis_off()
    gradient.legend(fontsize=8, frameon=False)
    return figure


def curves(
    start: np.ndarray, result: np.ndarray, reference: np.ndarray, title: str, captions: Sequence[str],
    methods: Mapping[str, tuple[Sequence[float], Sequence[float]]],
) -> Figure:  # fmt: skip
    """Reference, start, reconstruction and error; below, NMSE against iteration and against time.

    Args:
        start: initial image [H, W].
        result: reconstruction [H, W].
        reference: the true image [H, W].
        title: heading.
        captions: of start and result.
        methods: seconds and NMSE in dB of each method, one value for each iteration from the start on.
    """
    height = float(np.clip(CELL * result.shape[0] / result.shape[1], 1, 2 * CELL))
    figure = Figure(figsize=(4 * CELL, height + 2 * CURVES), layout="constrained")
    _heading(figure, title)
    top, bottom = cast(Any, figure.subfigures(2, 1, height_ratios=[height + 0.6, 1.5 * CURVES]))
    axes = top.subplots(1, 4)
    images = [(reference, "reference\n"), (start, captions[0]), (result, captions[1])]
    for ax, (pixels, caption) in zip(axes, images, strict=False):
        _image(ax, pixels, caption)
    error = np.abs(result.clip(0, 1) - reference)
    limit = _limit(error, 0.998, 1e-6)
    _colorbar(top, axes[3], _image(axes[3], error, "|reconstruction - reference|\n", "magma", limit))
    iterations, times = bottom.subplots(1, 2)
    for (name, (seconds, nmse)), color in zip(methods.items(), (BLUE, ORANGE, GREEN, RED), strict=False):
        _curve(iterations, np.arange(len(nmse)), nmse, color, name)
        _curve(times, 1e3 * np.asarray(seconds), nmse, color, name)
    _axes(iterations, "iteration", "NMSE (dB)")
    _axes(times, "milliseconds", "NMSE (dB)")
    iterations.legend(fontsize=8, frameon=False)
    return figure


def panels(
    methods: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]], limits: Mapping[str, float],
    title: str, limit: str,
) -> Figure:  # fmt: skip
    """NMSE against iteration, and below against time: a column for each problem, a curve for each method.

    Args:
        methods: of each problem, by name: seconds and NMSE in dB of each method, one value for each iteration from the
            start on; a method with one value only is drawn as a level.
        limits: NMSE of each problem that iterations tend to.
        title: heading.
        limit: name of that.
    """
    figure = Figure(figsize=(3.1 * len(methods) + 0.8, 6.4), layout="constrained")
    _heading(figure, title)
    grid = cast(Any, figure.subplots(2, len(methods), squeeze=False))
    for (name, found), upper, lower in zip(methods.items(), *grid, strict=True):
        for (method, (seconds, nmse)), color in zip(found.items(), (BLUE, GREEN, ORANGE, RED), strict=False):
            for ax, x in ((upper, np.arange(len(nmse))), (lower, 1e3 * np.asarray(seconds))):
                if len(nmse) == 1:
                    ax.axhline(nmse[0], color=color, label=method, linewidth=1.2)
                else:
                    ax.plot(x, _drawable(nmse), color=color, label=method, linewidth=1.5)
        for ax, xlabel in ((upper, "iteration"), (lower, "milliseconds")):
            ax.axhline(limits[name], color=GREY, label=limit, linewidth=1, linestyle="--")
            _axes(ax, xlabel, "NMSE (dB)")
        upper.set_title(plain(name), fontsize=9.5, **AS_IT_IS)
    grid[0, 0].legend(fontsize=7.5, frameon=False)
    return figure


def feature_maps(pixels: np.ndarray, norms: np.ndarray, title: str) -> Figure:
    """The image, what the learned features see of it, and what total variation would see.

    Args:
        pixels: image [H, W].
        norms: |g_i(x)| [H, W].
        title: heading.
    """
    height = float(np.clip(3.6 * pixels.shape[0] / pixels.shape[1], 1.2, 7.2))
    figure = Figure(figsize=(12, height + 0.9), layout="constrained")
    _heading(figure, title)
    axes = figure.subplots(1, 3)
    _image(axes[0], pixels, "reconstruction x")
    maps = ((norms, r"learned features $\|g_i(x)\|$"), (gradient_norm(pixels), r"forward differences $\|(Dx)_i\|$"))
    for ax, (values, name) in zip(axes[1:], maps, strict=True):
        limit = _limit(values, 0.995, 1e-12)
        _colorbar(figure, ax, _image(ax, values, name, "viridis", limit, parse_math=True))
    return figure


def gradient_norm(pixels: np.ndarray) -> np.ndarray:
    """|(D x)_i| of [H, W]: forward differences, 0 beyond the last row and column."""
    with np.errstate(invalid="ignore"):  # Inf - Inf, of a run that went astray
        down = np.diff(pixels, axis=0, append=pixels[-1:])
        right = np.diff(pixels, axis=1, append=pixels[:, -1:])
    return np.hypot(down, right)


def speed(rows: Sequence[Mapping[str, Any]], setting: str) -> Figure:
    """Bars of how many times faster than eager PyTorch: rows with `name`, `ratio`, `seconds` and `baseline_seconds`."""
    figure = Figure(figsize=(9.5, 0.42 * len(rows) + 1.5), layout="constrained")
    _heading(figure, "Speed against eager PyTorch")
    ax = figure.subplots()
    ratios = [row["ratio"] for row in rows]
    bars = ax.barh(
        [row["name"] for row in rows], ratios, color=[BLUE if r >= 1 else ORANGE for r in ratios], height=0.65
    )
    ax.axvline(1, color=GREY, linewidth=1, linestyle="--")
    texts = [f"{r['ratio']:.2f}x   {1e3 * r['seconds']:.3g} ms, was {1e3 * r['baseline_seconds']:.3g} ms" for r in rows]
    for text in ax.bar_label(bars, texts, padding=4, fontsize=8):
        text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 1})
    ax.set_xlim(0, 1.4 * max(*ratios, 1))
    ax.invert_yaxis()
    _axes(ax, "times as fast", "")
    ax.set_title(plain(setting), fontsize=8, color=GREY, **AS_IT_IS)
    ax.grid(visible=False, axis="y")
    return figure


def plain(text: str) -> str:
    """`text` as the font can show it, on as many lines: names of files hold anything, of any length."""
    known = _glyphs()
    lines = ["".join(c if ord(c) in known else NO_GLYPH for c in io.shown(line)) for line in text.split("\n")]
    return "\n".join(line if len(line) <= LONGEST else f"{line[: LONGEST // 2]} ... {line[-20:]}" for line in lines)


@cache
def _glyphs() -> frozenset[int]:
    """The characters of the fonts in use."""
    known = set()
    for family in FontProperties().get_family():
        with contextlib.suppress(ValueError):  # no font of that family
            path = font_manager.findfont(FontProperties(family=[family], weight="bold"), fallback_to_default=False)
            known |= get_font(path).get_charmap().keys()
    return frozenset(known)


def _heading(figure: Figure, title: str) -> None:
    figure.suptitle(plain(title), fontsize=12, fontweight="bold", **AS_IT_IS)


def _image(
    ax: Axes, pixels: np.ndarray, title: str, cmap: str = "gray", limit: float = 1, parse_math: bool = False
) -> Any:
    shown = ax.imshow(pixels, cmap=cmap, vmin=0, vmax=limit, interpolation="nearest")
    ax.set_title(title if parse_math else plain(title), fontsize=9.5, **({} if parse_math else AS_IT_IS))
    ax.set_axis_off()
    return shown


def _limit(values: np.ndarray, share: float, least: float) -> float:
    """The value that a share of the finite ones is below."""
    known = values[np.isfinite(values)]
    return max(float(np.quantile(known, share)), least) if known.size else least


def _colorbar(figure: Any, ax: Axes, shown: Any) -> None:
    bar = figure.colorbar(shown, ax=ax, fraction=0.046, pad=0.02)
    bar.ax.tick_params(labelsize=7.5, length=2)
    bar.outline.set_visible(False)


def _curve(ax: Axes, x: Any, y: Any, color: str, label: str | None = None, linestyle: str = "-") -> None:
    marker = "o" if len(x) <= FEW and linestyle == "-" else None
    ax.plot(
        x, _drawable(y), color=color, label=label, linestyle=linestyle, linewidth=1.5, marker=marker, markersize=3.5
    )


def _drawable(values: Any) -> np.ndarray:
    """Numbers with a gap where a run went astray: axes cannot show Inf."""
    y = np.asarray(values, float)
    return np.where(np.isfinite(y), y, np.nan)


def _bounds(ax: Axes, x: Any, history: Curves) -> None:
    """Merit and smoothed objective, between which the objective phi lies."""
    _curve(ax, x, history["merit"], ORANGE, r"merit $\phi_\varepsilon + m\varepsilon/2$")
    _curve(ax, x, history["phi_eps"], BLUE, r"$\phi_\varepsilon$")
    low, high = _drawable(history["phi_eps"]), _drawable(history["merit"])
    ax.fill_between(x, low, high, color=GREY, alpha=0.12, linewidth=0, label=r"$\phi$ lies here")
    ax.legend(fontsize=8, frameon=False)


def _axes(ax: Axes, xlabel: str, ylabel: str, log: bool = False) -> None:
    ax.set_xlabel(xlabel, fontsize=9)
    ax.set_ylabel(ylabel, fontsize=9)
    ax.tick_params(which="both", labelsize=8)
    ax.grid(visible=True, color="#e4e4e4", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    if log and any((_drawable(line.get_ydata()) > 0).any() for line in ax.lines):
        ax.set_yscale("log")
    elif ylabel:
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
