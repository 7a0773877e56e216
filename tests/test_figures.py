"""Figures: they show the numbers they were given, and need no display."""

import numpy as np
import pytest

pytest.importorskip("PIL")
pytest.importorskip("matplotlib")

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from PIL import Image

from fastrecon import figures, io

RNG = np.random.default_rng(0)
REFERENCE = RNG.random((20, 30))
START, RESULT = REFERENCE + 0.2, REFERENCE + 0.1 * RNG.standard_normal((20, 30))


def history(rows):
    eps = 0.01 * 0.9 ** np.arange(rows)
    phi = 5 + 1 / (1 + np.arange(rows))
    return {"phi_eps": phi, "merit": phi + 300 * eps, "grad_norm": eps * 900, "eps": eps}


def labelled(axes, text):
    (found,) = (ax for ax in axes if text in ax.get_ylabel() or text in ax.get_title())
    return found


def curves(ax):
    return [line.get_ydata() for line in ax.lines]


def shown(ax):
    return np.asarray(ax.images[0].get_array())


def test_a_picture_stands_beside_its_error_and_what_every_phase_did():
    h = history(10)
    images, captions = [REFERENCE, START, RESULT], ["reference\n", "start\n20 dB", "result\n30 dB"]
    axes = figures.picture(images, captions, "camera", h).axes
    for pixels, caption in zip(images, captions, strict=True):
        (ax,) = (ax for ax in axes if ax.get_title() == caption)
        np.testing.assert_array_equal(shown(ax), pixels)
    error = labelled(axes, "|reconstruction")
    np.testing.assert_allclose(shown(error), abs(RESULT.clip(0, 1) - REFERENCE))
    assert error.images[0].norm.vmax <= shown(error).max()
    np.testing.assert_array_equal(curves(labelled(axes, "objective")), [h["merit"], h["phi_eps"]])
    np.testing.assert_array_equal(curves(labelled(axes, "radius")), [h["eps"]])
    assert {ax.get_xlabel() for ax in axes} == {"", "phase"}


def test_without_a_reference_or_a_history():
    axes = figures.picture([START, RESULT], ["start", "result"], "scan", {}).axes
    assert [ax.get_title() for ax in axes if ax.images] == ["start", "result"]


@pytest.mark.parametrize("rows", [12, 200])
def test_every_row_of_a_report_is_drawn(rows):
    h = {"objective": np.linspace(9, 1, rows), "step_norm": 0.9 ** np.arange(rows)}
    quality = {"iteration": [1, 2, rows - 1], "seconds": [0.1, 0.2, 3], "nmse_db": [-3.0, -5.0, -9.0]}
    axes = figures.picture([START, RESULT], ["a", "b"], "x", h | {"quality": quality}).axes
    np.testing.assert_array_equal(curves(labelled(axes, "objective")), [h["objective"]])
    np.testing.assert_array_equal(curves(labelled(axes, "length of the step")), [h["step_norm"]])
    error = labelled(axes, "NMSE").lines[0]
    np.testing.assert_array_equal(error.get_xdata(), quality["iteration"])
    np.testing.assert_array_equal(error.get_ydata(), quality["nmse_db"])
    assert ("log" in {ax.get_yscale() for ax in axes}) == (rows > figures.FEW)


def test_colours_are_shown_as_colours_and_complex_pictures_by_magnitude():
    colour = np.stack([START, RESULT, REFERENCE], -1)
    axes = figures.picture([colour, colour, colour], ["r", "s", "t"], "x", {}).axes
    np.testing.assert_array_equal(shown(axes[1]), colour.clip(0, 1))
    assert shown(labelled(axes, "|reconstruction")).shape == START.shape
    axes = figures.picture([START * 1j, RESULT * 1j], ["s", "t"], "x", {}).axes
    np.testing.assert_array_equal(shown(axes[0]), abs(START))


def test_feature_maps_stand_beside_differences():
    norms = RNG.random((20, 30))
    axes = figures.feature_maps(RESULT, norms, "x").axes
    np.testing.assert_array_equal(shown(labelled(axes, "learned")), norms)
    np.testing.assert_array_equal(shown(labelled(axes, "forward")), figures.gradient_norm(RESULT))


def test_panels_show_every_method_of_every_problem():
    curve, level = ([1, 2, 5], [0.0, 0.5, 1.0], [-1.0, -2.0, -3.0]), ([1], [0.2], [-2.5])
    figure = figures.panels({"a": {"m": curve, "n": level}, "b": {"m": curve}}, "title")
    upper_a, upper_b, lower_a, _ = figure.axes
    assert [upper_a.get_title(), upper_b.get_title()] == ["a", "b"]
    m, n = upper_a.lines
    np.testing.assert_array_equal(m.get_xydata(), [[1, -1], [2, -2], [5, -3]])
    assert set(n.get_ydata()) == {-2.5}
    np.testing.assert_array_equal(lower_a.lines[0].get_xdata(), [0, 500, 1000])


def test_gradient_norm():
    ramp = np.add.outer(3.0 * np.arange(4), 4.0 * np.arange(5))
    expected = np.full((4, 5), 5.0)
    expected[-1], expected[:, -1], expected[-1, -1] = 4, 3, 0
    np.testing.assert_allclose(figures.gradient_norm(ramp), expected)


def test_speed_tells_faster_from_slower():
    rows = [
        {"name": "a", "ratio": 4.0, "seconds": 0.001, "baseline_seconds": 0.004},
        {"name": "b", "ratio": 0.5, "seconds": 0.002, "baseline_seconds": 0.001},
    ]
    (ax,) = figures.speed(rows, "here").axes
    fast, slow = ax.patches
    assert (fast.get_width(), slow.get_width()) == (4, 0.5)
    assert fast.get_facecolor() != slow.get_facecolor()
    assert [t.get_text() for t in ax.texts] == ["4.00x   1 ms, was 4 ms", "0.50x   2 ms, was 1 ms"]


@pytest.mark.parametrize("shape", [(1, 1), (7, 300), (300, 7)])
def test_any_image_shape_is_written(tmp_path, shape):
    x = np.full(shape, 0.5)
    io.write_figure(tmp_path / "a.png", figures.picture([x, x, x], ["r", "a\nb", "c\nd"], "x", history(2)), dpi=50)
    io.write_figure(tmp_path / "b.png", figures.feature_maps(x, x, "x"), dpi=50)
    for name in ("a.png", "b.png"):
        with Image.open(tmp_path / name) as image:
            assert np.asarray(image).std() > 0


ODD_NAMES = {
    "dollars": "a$b$c",
    "bad mathematics": "x$\\frac{$ _^",
    "no text": "scan\udcff\udc80",
    "lines": "one\ttwo\x1b[31m",
    "Chinese": "再构成图像",
    "emoji": "\U0001f600\U000f0000",
    "long": 255 * "n",
    "backslash": "end\\",
}


@pytest.mark.parametrize("name", ODD_NAMES)
def test_names_of_files_are_no_formulas(tmp_path, name):
    title, x = ODD_NAMES[name], np.full((4, 6), 0.5)
    figure = figures.picture([x, x], [title, title], title, {})
    io.write_figure(tmp_path / "x.png", figure, dpi=20)  # a warning would be an error
    assert figure.get_suptitle() == figures.plain(title)


def test_only_our_own_formulas_are_read_as_such():
    title, x = "x$\\frac{$ _^", np.full((4, 6), 0.5)
    for figure in (
        figures.picture([REFERENCE, START, RESULT], [title] * 3, title, history(3)),
        figures.feature_maps(x, x, title), figures.layers({"m": [1, 2]}, "y", title),
        figures.panels({title: {"m": ([0], [0], [1])}}, title),
        figures.speed([{"name": "a", "ratio": 4.0, "seconds": 1, "baseline_seconds": 4}], title),
    ):  # fmt: skip
        found = [text for text in figure.findobj(Text) if "frac" in text.get_text()]
        assert found
        assert not any(text.get_parse_math() for text in found)


def test_headings_show_what_the_font_has():
    assert figures.plain("café $5\nΩ²") == "café $5\nΩ²"
    assert figures.plain("a\udcffb\x1b") == "a\\xffb\\x1b"
    assert figures.plain("a\U000f0000b") == "a\\U000f0000b"  # private use: no character of any font
    assert figures.plain("图x") in ("□x", "图x")
    assert figures.plain(50 * "a" + 150 * "b" + 20 * "c") == 45 * "a" + " ... " + 20 * "c"


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30, 0.0])
def test_numbers_that_went_astray_are_drawn_all_the_same(tmp_path, value):
    x, h = np.full((4, 6), value), {k: np.full(50, value) for k in history(1)}
    io.write_figure(tmp_path / "x.png", figures.picture([RESULT[:4, :6], x, x], ["r", "a", "b"], "x", h), dpi=20)
    io.write_figure(tmp_path / "x.png", figures.feature_maps(x, x, "x"), dpi=20)


@pytest.mark.parametrize("values", [(0.006, 0.0145), (23.1, 29.7), (-4.0, -3.0), (0.0, 0.0)], ids=str)
def test_bars_fill_their_axes(values):
    names = [f"a rather long name of a method {k}" for k in range(2)]
    cells = {("pictures", n): v for n, v in zip(names, values, strict=True)}
    heading = "|x - y|^2 / 2 + 0.01 edges per pixel, an edge being a difference above 1/255."
    figure = figures.bars(cells, ["pictures"], names, "objective", heading)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    low, high = figure.axes[0].get_ylim()
    assert low <= min(values) <= max(values) < high
    assert max(values) - min(values) >= 0.5 * (high - low) or values == (0.0, 0.0)
    renderer = canvas.get_renderer()
    headings = [t for t in figure.texts if t.get_text().startswith("|x")]
    for part in (headings[0], figure.legends[0]):
        box = part.get_window_extent(renderer)
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.width
