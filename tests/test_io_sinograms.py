"""Sinograms and angles in files: numbers as they are, units told apart, counts to line integrals."""

import math

import numpy as np
import pytest

pytest.importorskip("tifffile")

import tifffile

from fastrecon import io

RNG = np.random.default_rng(0)
COUNTS = RNG.integers(1, 60000, (6, 9))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.uint32, np.int32, np.float32, np.float64])
def test_numbers_are_taken_as_they_are(tmp_path, dtype):
    a = (COUNTS // 3 if np.dtype(dtype).itemsize == 2 else COUNTS % 200).astype(dtype)
    np.save(tmp_path / "s.npy", a)
    np.savez(tmp_path / "s.npz", sinogram=a, angles=np.arange(6))
    np.savez(tmp_path / "one.npz", anything=a, angles=np.arange(6), flat=5)
    names = ["s.npy", "s.npz", "one.npz"]
    if dtype != np.float64:
        tifffile.imwrite(tmp_path / "s.tif", a, photometric="minisblack")
        names.append("s.tif")
    for name in names:
        found = io.read_array(tmp_path / name)
        np.testing.assert_array_equal(found.data, a)
        assert found.data.dtype == (np.float32 if np.dtype(dtype).itemsize <= 2 or dtype == np.float32 else np.float64)
        assert found.form == io.Form(".tif" if name == "s.tif" else ".npy", "float32")


def test_a_row_where_it_is_wanted(tmp_path):
    np.save(tmp_path / "flat.npy", COUNTS[0])
    np.testing.assert_array_equal(io.read_array(tmp_path / "flat.npy", row=True).data, COUNTS[:1])


def test_png_of_16_bits_holds_counts(tmp_path):
    io.write_picture(tmp_path / "s", COUNTS / 65535, io.Form(".png", "uint16"))
    found = io.read_array(tmp_path / "s.png")
    np.testing.assert_array_equal(found.data, COUNTS)
    assert found.form == io.Form(".tif", "float32")


@pytest.mark.parametrize(
    ("a", "words"),
    [
        (COUNTS * 1j, "expected real numbers, got complex128"),
        (COUNTS[0], "expected an array [rows, columns], got shape (9,)"),
        (np.zeros((2, 6, 9)), "expected an array [rows, columns], got shape (2, 6, 9)"),
        (np.where(COUNTS > 30000, np.nan, 1), "NaN or Inf among 54"),
    ],
)
def test_bad_arrays(tmp_path, a, words):
    np.save(tmp_path / "s.npy", a)
    with pytest.raises(ValueError, match=r"s\.npy: expected") as e:
        io.read_array(tmp_path / "s.npy")
    assert words in str(e.value)


def test_axes_are_told_by_the_number_of_views():
    a = COUNTS.astype(np.float32)
    assert io.by_view(a, 6) == (pytest.approx(a), ())
    turned, notes = io.by_view(a, 9)
    np.testing.assert_array_equal(turned, a.T)
    assert notes == ("columns are views: transposed",)
    assert io.by_view(a[:, :6], 6)[1] == ("as many views as detectors: rows taken as views",)
    with pytest.raises(ValueError, match="sinogram: angles: expected 6 or 9, one for each view, got 7"):
        io.by_view(a, 7)


DEGREES = np.linspace(0, 180, 60, endpoint=False)


@pytest.mark.parametrize("unit", [None, "deg", "rad"])
@pytest.mark.parametrize("name", ["a.npy", "a.npz", "column.txt", "row.csv", "headed.csv"])
def test_files_of_angles(tmp_path, name, unit):
    a = np.deg2rad(DEGREES) if unit == "rad" else DEGREES
    if name == "a.npy":
        np.save(tmp_path / name, a)
    elif name == "a.npz":
        np.savez(tmp_path / name, theta=a, sinogram=COUNTS)
    else:
        text = (", " if name == "row.csv" else "\n").join(map(repr, a.tolist()))
        (tmp_path / name).write_text(("angle [deg]\n" if name == "headed.csv" else "# angles\n") + text + "\n")
    found, notes = io.read_angles(tmp_path / name, unit)
    np.testing.assert_allclose(found, np.deg2rad(DEGREES), rtol=1e-12)
    assert notes == (("angles span 180: taken as degrees",) if unit is None else ())


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("0:180:60", np.deg2rad(DEGREES)),
        ("0:180:60deg", np.deg2rad(DEGREES)),
        ("0:3.14159265358979:4", np.arange(4) * math.pi / 4),
        ("-90:90:3", np.deg2rad([-90, -30, 30])),
        ("0:0.5:2rad", [0, 0.25]),
        ("180:0:2 deg", [math.pi, math.pi / 2]),
        ("0:6.2831853:2", [0, math.pi]),
    ],
)
def test_ranges_leave_out_their_end(text, right):
    np.testing.assert_allclose(io.read_angles(text)[0], right, atol=1e-7)


@pytest.mark.parametrize(
    ("text", "unit", "words"),
    [
        (
            "0:0.5:20",
            None,
            "angles: 0:0.5:20: expected the unit of the angles, deg or rad, got none, and a span of 0.5",
        ),
        ("0:12:20", None, "got none, and a span of 12"),
        ("0:3.14159:60", "deg", "expected angles in degrees, got a span of 3.142: radians?"),
        ("0:180:60", "rad", "expected angles in radians within 4 turns, got a span of 180: degrees?"),
        ("0:180:60deg", "rad", "expected one unit, got deg and rad"),
        ("0:180:0", None, "at least 1 x 1 angles"),
        ("0:180:999999999", None, "at most 67108864 angles"),
        ("0:1e999:3", None, "expected finite angles"),
        ("0:180:many", None, "angles: expected a file or START:STOP:COUNT, got '0:180:many'"),
        ("0:180:60", "grad", "expected the unit deg or rad, got 'grad'"),
    ],
)
def test_bad_ranges(text, unit, words):
    with pytest.raises(ValueError, match="expected") as e:
        io.read_angles(text, unit)
    assert words in str(e.value)


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        ("1 2\n3 4\n", "expected one angle for each view, got shape (2, 2)"),
        ("a\nb\n", "expected numbers, got 'b'"),
        ("angle\n", "expected one angle for each view, got shape (0,)"),
        ("0\n1e999\n", "expected finite angles, got NaN or Inf"),
        ("0\nnan\n", "expected numbers, got 'nan'"),
        ("5\n", "expected the unit of the angles"),
        ("\xff", "expected one angle"),
    ],
)
def test_bad_files_of_angles(tmp_path, contents, words):
    (tmp_path / "a.txt").write_text(contents)
    with pytest.raises(ValueError, match=r"a\.txt: expected") as e:
        io.read_angles(tmp_path / "a.txt")
    assert words in str(e.value)
    with pytest.raises(FileNotFoundError, match="no such file"):
        io.read_angles(tmp_path / "b.txt")


@pytest.mark.parametrize("fields", ["numbers", "rows", "exposures", "whole"])
def test_counts_become_line_integrals(fields):
    integrals = RNG.random((6, 9)) * 3
    flat, dark = 50000 + 1000 * RNG.random(9), 100 + 10 * RNG.random(9)
    if fields == "numbers":
        flat, dark = flat[0], dark[0]
    counts = dark + (flat - dark) * np.exp(-integrals)
    if fields == "exposures":
        flat, dark = np.stack([flat - 5, flat + 5]), np.stack([dark - 5, dark + 5])
    elif fields == "whole":
        flat, dark = (np.broadcast_to(a, (6, 9)) for a in (flat, dark))
    found, notes = io.line_integrals(counts, flat, dark)
    np.testing.assert_allclose(found, integrals, rtol=1e-5, atol=1e-5)
    assert found.dtype == np.float32
    assert notes == (("dark: mean of 2 exposures", "flat: mean of 2 exposures") if fields == "exposures" else ())


def test_rays_without_a_count_get_the_smallest_one():
    counts = COUNTS.astype(np.float32)
    counts[0, 0], counts[3, 4] = 0, -5
    found, notes = io.line_integrals(counts, 65535.0)
    assert found[0, 0] == found[3, 4] == found.max()
    least = counts[counts > 0].min()
    assert notes == (f"2 of 54 rays without a count raised to {least:g}, the smallest above",)


@pytest.mark.parametrize(
    ("flat", "dark", "words"),
    [
        (np.ones(6), None, "counts: flat: expected a number, [9] or (6, 9), got shape (6,)"),
        (np.ones((9, 6)), None, "flat: expected a number, [9] or (6, 9), got shape (9, 6)"),
        (5.0, 6.0, "flat: expected counts above those of dark, got 54 of 54 that are not"),
        (7e4, 6e4, "expected counts > 0 (above dark), got 100% of the rays without"),
        (np.nan, None, "flat: expected finite numbers, got NaN or Inf"),
    ],
)
def test_bad_fields(flat, dark, words):
    with pytest.raises(ValueError, match="counts: ") as e:
        io.line_integrals(COUNTS, flat, dark)
    assert words in str(e.value)
