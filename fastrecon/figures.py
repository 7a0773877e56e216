"""Figures as matplotlib Figure objects: no pyplot, no global state, nothing shown.

Images are arrays [H, W] on the [0, 1] scale; curves are sequences with one value for each phase or iteration.
"""

import contextlib
import textwrap
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import cycle
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
SHADES = (BLUE, GREEN, ORANGE, RED, "#56B4E9", "#CC79A7")
CELL = 3.0  # inches: width of an image
CURVES = 2.1  # inches: height of a row of curves
FEW = 40  # points: up to here each is marked
LONGEST = 90  # characters of a line of a heading
INCH = 9.0  # characters of a heading
LETTER = 0.075  # inches, in a legend
NO_GLYPH = "\u25a1"  # stands for a character that the font lacks, of which matplotlib would warn
AS_IT_IS: dict[str, Any] = {"parse_math": False, "usetex": False}  # of texts from outside: $ is a character

Curves = Mapping[str, Sequence[float]]


def picture(
    images: Sequence[np.ndarray], captions: Sequence[str], title: str, history: Mapping[str, Any],
    maps: Mapping[str, np.ndarray] | None = None,
) -> Figure:  # fmt: skip
    """Start and reconstruction, with the truth also that and the error; below, what every iteration did.

    Args:
        images: start and result, or reference, start and result: [H, W] or [H, W, 3] on [0, 1], of complex ones the
            magnitude is shown.
        captions: of the images.
        title: heading.
        history: rows of the report by name, one value for each iteration from the start on; `quality` holds
            iteration, seconds and nmse_db.
        maps: further panels by name, [H, W] on [0, 1].
    """
    maps = maps or {}
    images = [np.abs(a) if np.iscomplexobj(a) else a for a in images]
    panels = _panels(history)
    columns = (4 if len(images) == 3 else max(2, len(images))) + len(maps)
    height = float(np.clip(CELL * images[0].shape[0] / images[0].shape[1], 1, 2 * CELL))
    figure = Figure(figsize=(CELL * columns, height + (CURVES if panels else 0) + 1.1), layout="constrained")
    _heading(figure, title)
    top, bottom = figure, None
    if panels:
        top, bottom = cast(Any, figure.subfigures(2, 1, height_ratios=[height + 0.6, CURVES]))
    axes = cast(Any, top.subplots(1, columns, squeeze=False))[0]
    for ax, pixels, caption in zip(axes, images, captions, strict=False):
        _image(ax, pixels, caption)
    for ax in axes[len(images) :]:
        ax.set_axis_off()
    if len(images) == 3:
        error = np.abs(images[2].clip(0, 1) - images[0])
        error = error.mean(-1) if error.ndim == 3 else error
        limit = _limit(error, 0.998, 1e-6)
        _colorbar(top, axes[3], _image(axes[3], error, "|reconstruction - reference|\n", "magma", limit))
    for ax, (name, values) in zip(axes[columns - len(maps) :], maps.items(), strict=True):
        _colorbar(top, ax, _image(ax, values, f"{name}\n", "viridis"))
    if bottom is not None:
        places = cast(Any, bottom.subplots(1, len(panels), squeeze=False))[0]
        for ax, draw in zip(places, panels, strict=True):
            draw(ax)
    return figure


LABELS = {  # of the rows of reports
    "objective": "objective", "grad_norm": r"$\|\nabla\phi_\varepsilon\|$", "eps": r"smoothing radius $\varepsilon$",
    "step_norm": "length of the step", "gap": "duality gap", "primal_residual": "primal residual",
}  # fmt: skip


def _panels(history: Mapping[str, Any]) -> list[Any]:
    """What draws each curve of a report, at most four."""
    found: list[Any] = []
    rows = {k: v for k, v in history.items() if k != "quality" and len(v) > 1}
    long = any(len(v) > FEW for v in rows.values())
    unit = "iteration" if long else "phase" if "phi_eps" in rows else "iteration"

    def curve(name: str, values: Sequence[float]) -> Any:
        def draw(ax: Axes) -> None:
            _curve(ax, np.arange(len(values)), values, RED if name != "eps" else GREEN)
            _axes(ax, unit, LABELS.get(name, name.replace("_", " ")), log=long and name != "objective")

        return draw

    if "phi_eps" in rows and "merit" in rows:

        def bounds(ax: Axes) -> None:
            _bounds(ax, np.arange(len(rows["phi_eps"])), rows)
            _axes(ax, unit, "objective", log=long)

        found.append(bounds)
    found += [curve(k, v) for k, v in rows.items() if k not in ("phi_eps", "merit")]
    quality = history.get("quality")
    if quality and len(quality["iteration"]) > 1:

        def error(ax: Axes) -> None:
            _curve(ax, quality["iteration"], quality["nmse_db"], BLUE)
            _axes(ax, unit, "NMSE (dB)")

        found.append(error)
    return found[:4]


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


def lines(curves: Mapping[str, tuple[Any, Any]], labels: tuple[str, str], title: str) -> Figure:
    """One quantity of several methods against another, a few points each: (x, y) by name."""
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    _heading(figure, title)
    ax = cast(Any, figure.subplots())
    for (name, (x, y)), color in zip(curves.items(), cycle(SHADES), strict=False):
        ax.plot(x, _drawable(y), color=color, marker="o", markersize=4, linewidth=1.5, label=plain(name))
    _axes(ax, *labels)
    ax.legend(fontsize=8, frameon=False)
    return figure


def courses(curves: Mapping[str, tuple[Any, Any]], labels: tuple[str, str], title: str) -> Figure:
    """Two quantities of several methods against iterations 1, 2, ..., side by side; the first on a scale of powers."""
    figure = Figure(figsize=(8.4, 4.0), layout="constrained")
    _heading(figure, title)
    both = cast(Any, figure.subplots(1, 2))
    for (name, values), color in zip(curves.items(), cycle(SHADES), strict=False):
        for ax, y in zip(both, values, strict=True):
            _curve(ax, 1 + np.arange(len(y)), y, color, name)
    for ax, label, log in zip(both, labels, (True, False), strict=True):
        _axes(ax, "iteration", label, log)
        ax.set_xscale("log")
    both[1].legend(fontsize=8, frameon=False)
    return figure


def panels(methods: Mapping[str, Mapping[str, tuple[Any, Any, Any]]], title: str) -> Figure:
    """NMSE against iteration, and below against time: a column for each problem, a curve for each method.

    Args:
        methods: of each problem, by name: iterations, seconds and NMSE in dB of each method; one with a single value
            is drawn as a level.
        title: heading.
    """
    figure = Figure(figsize=(3.1 * max(1, len(methods)) + 0.8, 6.4), layout="constrained")
    _heading(figure, title)
    grid = cast(Any, figure.subplots(2, max(1, len(methods)), squeeze=False))
    for (name, found), upper, lower in zip(methods.items(), *grid, strict=True):
        for (method, (iterations, seconds, nmse)), color in zip(found.items(), cycle(SHADES), strict=False):
            for ax, x in ((upper, iterations), (lower, 1e3 * np.asarray(seconds))):
                if len(nmse) == 1:
                    ax.axhline(nmse[0], color=color, label=method, linewidth=1.2)
                else:
                    ax.plot(x, _drawable(nmse), color=color, label=method, linewidth=1.5)
        for ax, xlabel in ((upper, "iteration"), (lower, "milliseconds")):
            _axes(ax, xlabel, "NMSE (dB)")
        upper.set_title(plain(name), fontsize=9.5, **AS_IT_IS)
    if methods:
        grid[0, 0].legend(fontsize=7.5, frameon=False)
    return figure


def bars(
    cells: Mapping[tuple[str, str], float], lines: Sequence[str], columns: Sequence[str], label: str, title: str
) -> Figure:
    """Numbers of a table: a group of bars for each line, a bar for each column that it has.

    Args:
        cells: by line and column.
        lines, columns: their order.
        label: of the axis.
        title: heading.
    """
    width = max(5.0, 1.7 * len(lines) + 1)  # inches
    figure = Figure(figsize=(width, 4.2), layout="constrained")
    _heading(figure, textwrap.fill(title, int(width * INCH)))
    ax = cast(Any, figure.subplots())
    shades = {c: (*SHADES, GREY)[k % (len(SHADES) + 1)] for k, c in enumerate(columns)}
    for at, line in enumerate(lines):
        here = [c for c in columns if (line, c) in cells]
        each = 0.8 / max(len(here), 1)
        for k, column in enumerate(here):
            ax.bar(at - 0.4 + (k + 0.5) * each, cells[line, column], 0.9 * each, color=shades[column])
    ax.set_xticks(range(len(lines)), [plain(line).replace(" ", "\n", 1) for line in lines], fontsize=7.5)
    finite = [v for v in cells.values() if np.isfinite(v)]
    if finite:
        low, high = min(finite), max(finite)
        room = (high - low or abs(high) or 1.0) / 4  # below the least bar, and some above the greatest
        ax.set_ylim(max(low - room, 0) if low >= 0 else low - room, high + room / 2)
    ax.set_ylabel(label, fontsize=8.5)
    handles = [ax.bar(0, 0, color=shades[c], label=plain(c)) for c in columns]
    longest = max((len(c) for c in columns), default=1)
    across = max(1, min(4, int(width / (LETTER * longest + 0.6))))
    figure.legend(handles=handles, loc="outside lower center", ncols=across, fontsize=7.5, frameon=False)
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
    pixels = pixels.clip(0, limit) if pixels.ndim == 3 else pixels  # colours are not clipped by the colour map
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
