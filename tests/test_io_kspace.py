"""k-space in the files of several conventions: what is read is what was written, and every fault is one line."""

import os

import numpy as np
import pytest

from fastrecon import io

RNG = np.random.default_rng(0)


def samples(*shape, dtype=np.complex64):
    return (RNG.standard_normal(shape) + 1j * RNG.standard_normal(shape)).astype(dtype)


def pairs(a):
    return np.stack([a.real, a.imag], -1)


SINGLE, COILS, SLICES = samples(6, 8), samples(3, 6, 8), samples(4, 3, 6, 8)
COLUMNS = np.array([1, 0, 0, 1, 1, 0, 1, 0], bool)


def hdf5(path, attributes=(), **datasets):
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as f:
        for name, a in datasets.items():
            f[name] = a
        f.attrs.update(dict(attributes))
    return path


def cfl(path, a):
    shape = (*a.shape, *(1,) * (16 - a.ndim))
    path.with_suffix(".hdr").write_text("# Dimensions\n" + " ".join(map(str, shape)) + " \n# Command\nphantom\n")
    path.with_suffix(".cfl").write_bytes(a.astype(np.complex64).tobytes(order="F"))
    return path


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
@pytest.mark.parametrize("real", [False, True])
@pytest.mark.parametrize("a", [SINGLE, COILS, SLICES[:1]], ids=["single", "coils", "slice"])
def test_arrays(tmp_path, a, real, dtype):
    a = a.astype(dtype)
    np.save(tmp_path / "k.npy", pairs(a) if real else a)
    np.savez(tmp_path / "k.npz", kspace=pairs(a) if real else a)
    np.savez(tmp_path / "other.npz", anything=a)
    for name in ("k.npy", "k.npz", "other.npz"):
        k = io.read_kspace(tmp_path / name)
        np.testing.assert_array_equal(k.data, a.reshape(-1, 6, 8))
        assert k.data.dtype == dtype
        assert (k.mask, k.maps, k.centred, k.path) == (None, None, None, tmp_path / name)
        assert k.form == io.Form(".npy", "complex64")


def test_one_array_of_several_can_be_named(tmp_path):
    np.savez(tmp_path / "k.npz", a=SINGLE, b=COILS)
    np.testing.assert_array_equal(io.read_kspace(f"{tmp_path}/k.npz:b").data, COILS)
    np.testing.assert_array_equal(io.read_maps(f"{tmp_path}/k.npz:b", COILS.shape), COILS)
    with pytest.raises(ValueError, match=r"k\.npz: expected an array 'c', got only 'a', 'b'"):
        io.read_kspace(f"{tmp_path}/k.npz:c")


def test_archives_hold_masks_maps_and_facts(tmp_path):
    mask = np.zeros((6, 8), np.uint8)
    mask[:, ::2] = 255
    np.savez(tmp_path / "k.npz", y=COILS, mask=mask, sensitivities=COILS * 2, centred=np.array(True), noise=0.5)
    k = io.read_kspace(tmp_path / "k.npz")
    np.testing.assert_array_equal(k.mask, mask > 0)
    np.testing.assert_array_equal(k.maps, COILS * 2)
    assert k.centred is True
    assert k.facts == {"noise": 0.5}


@pytest.mark.parametrize("name", ["k.npy", "k.npz", "k.h5", "k.cfl"])
@pytest.mark.parametrize("data", [SINGLE[None], COILS], ids=["single", "coils"])
def test_what_is_written_is_read(tmp_path, name, data):
    if name == "k.h5":
        pytest.importorskip("h5py")
    mask = np.broadcast_to(COLUMNS, (6, 8))
    written = io.KSpace(data * mask, mask, data, True, facts={"noise": 0.25, "source": "x\udcff"})
    io.write_kspace(tmp_path / name, written)
    k = io.read_kspace(tmp_path / name)
    np.testing.assert_array_equal(k.data, written.data)
    if name in ("k.npz", "k.h5"):
        np.testing.assert_array_equal(k.mask, mask)
        np.testing.assert_array_equal(k.maps, data)
    assert k.centred is (None if name == "k.npy" else True)
    if name == "k.npz":
        assert k.facts == {"noise": 0.25, "source": "x\\xff"}
    np.testing.assert_array_equal(io.mask_from_zeros(k.data), mask)


def test_what_cannot_be_written(tmp_path):
    with pytest.raises(
        ValueError, match=r"k\.cfl: expected centred k-space for BART, got the zero frequency at \(0, 0\)"
    ):
        io.write_kspace(tmp_path / "k.cfl", io.KSpace(COILS, centred=False))
    with pytest.raises(ValueError, match=r"k\.mat: expected a name that ends in"):
        io.write_kspace(tmp_path / "k.mat", io.KSpace(COILS))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("record", [None, ("r", "i"), ("real", "imag")])
def test_fastmri(tmp_path, record):
    stored = SLICES
    if record:
        stored = np.zeros(SLICES.shape, [(part, np.float32) for part in record])
        stored[record[0]], stored[record[1]] = SLICES.real, SLICES.imag
    path = hdf5(
        tmp_path / "k.h5", {"max": 2.5, "acquisition": "AXT2", "patient_id": "secret"},
        kspace=stored, mask=COLUMNS, reconstruction_rss=np.zeros((4, 5, 5), np.float32),
    )  # fmt: skip
    k = io.read_kspace(path, slice=2)
    np.testing.assert_array_equal(k.data, SLICES[2])
    np.testing.assert_array_equal(k.mask, np.broadcast_to(COLUMNS, (6, 8)))
    assert k.centred is True
    assert k.form == io.Form(".h5", "complex64")
    assert k.facts == {"max": 2.5, "acquisition": "AXT2", "reconstruction_size": (5, 5)}
    with pytest.raises(
        ValueError, match=r"k\.h5: kspace: expected slice to be one of 0 to 3, got none chosen of 4 sli"
    ):
        io.read_kspace(path)
    with pytest.raises(ValueError, match=r"k\.h5: kspace: expected slice to be one of 0 to 3, got 4"):
        io.read_kspace(path, slice=4)


def test_fastmri_of_a_single_coil(tmp_path):
    path = hdf5(tmp_path / "k.h5", {"mask": COLUMNS.astype(np.float32)}, kspace=SLICES[:, 0])
    k = io.read_kspace(path, slice=1)
    np.testing.assert_array_equal(k.data, SLICES[1, :1])
    np.testing.assert_array_equal(k.mask, np.broadcast_to(COLUMNS, (6, 8)))
    k = io.read_kspace(hdf5(tmp_path / "one.h5", kspace=pairs(SINGLE)))
    np.testing.assert_array_equal(k.data, SINGLE[None])


@pytest.mark.parametrize(
    ("a", "right"),
    [
        (COILS.transpose(1, 2, 0)[:, :, None], COILS),
        (SINGLE, SINGLE[None]),
        (COILS.transpose(1, 2, 0)[None], COILS),
        (np.stack([COILS.transpose(1, 2, 0)[:, :, None], SLICES[0].transpose(1, 2, 0)[:, :, None]], 4), COILS),
    ],
    ids=["z", "single", "x", "maps"],
)
def test_bart(tmp_path, a, right):
    for path in (cfl(tmp_path / "k.cfl", a), tmp_path / "k.hdr"):
        k = io.read_kspace(path)
        np.testing.assert_array_equal(k.data, right)
        assert (k.centred, k.form) == (True, io.Form(".cfl", "complex64"))
    np.testing.assert_array_equal(io.read_maps(tmp_path / "k.cfl", right.shape), right)


def test_slices_of_bart(tmp_path):
    a = SLICES.transpose(2, 3, 1, 0).reshape(6, 8, 1, 3, *(1,) * 9, 4)
    np.testing.assert_array_equal(io.read_kspace(cfl(tmp_path / "k.cfl", a), slice=3).data, SLICES[3])


def mrd(path, lines, size=(8, 6), final=(8, 6), centre=3, trajectory="cartesian", depth=1):
    """An ISMRMRD file; of each line: step, samples [coils, n], and what else its header says."""
    ismrmrd = pytest.importorskip("ismrmrd")
    space = (
        "<matrixSize><x>{}</x><y>{}</y><z>{}</z></matrixSize><fieldOfView_mm><x>1</x><y>1</y><z>1</z></fieldOfView_mm>"
    )
    counts = f"<minimum>0</minimum><maximum>{size[1] - 1}</maximum><center>{centre}</center>"
    xml = (
        '<?xml version="1.0"?><ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"><experimentalConditions>'
        "<H1resonanceFrequency_Hz>128000000</H1resonanceFrequency_Hz></experimentalConditions><encoding>"
        f"<encodedSpace>{space.format(*size, depth)}</encodedSpace><reconSpace>{space.format(*final, 1)}</reconSpace>"
        f"<encodingLimits><kspace_encoding_step_1>{counts}</kspace_encoding_step_1></encodingLimits>"
        f"<trajectory>{trajectory}</trajectory></encoding></ismrmrdHeader>"
    )
    with ismrmrd.Dataset(path, "dataset", True) as f:
        f.write_xml_header(xml.encode())
        for step, data, *rest in lines:
            line = ismrmrd.Acquisition.from_array(np.ascontiguousarray(data))
            given = dict(*rest)
            line.idx.kspace_encode_step_1 = step
            line.center_sample = given.get("centre", data.shape[1] // 2)
            line.idx.slice, line.idx.repetition = given.get("slice", 0), given.get("repetition", 0)
            for flag in given.get("flags", ()):
                line.setFlag(getattr(ismrmrd, f"ACQ_IS_{flag}"))
            f.append_acquisition(line)
    return path


def test_acquisitions_are_sorted(tmp_path):
    order = [4, 0, 5, 1]
    noise = (0, samples(3, 32), {"flags": ["NOISE_MEASUREMENT"]})
    k = io.read_kspace(mrd(tmp_path / "k.h5", [noise, *((step, COILS[:, step]) for step in order)]))
    mask = np.isin(np.arange(6), order)
    np.testing.assert_array_equal(k.data, COILS * mask[:, None])
    np.testing.assert_array_equal(k.mask, np.broadcast_to(mask[:, None], (6, 8)))
    assert (k.centred, k.facts) == (True, {"reconstruction_size": (6, 8)})
    assert k.notes == ("1 lines of calibration, noise or navigation left aside",)


def test_acquisitions_of_all_kinds(tmp_path):
    part, again = COILS[:, 2, 3:], samples(3, 8)
    lines = [
        (0, COILS[:, 0, ::-1], {"flags": ["REVERSE"], "centre": 3}),
        (1, part, {"centre": 1}),  # a partial echo
        (2, COILS[:, 3]), (2, again),  # twice
        (3, again, {"repetition": 1}),
    ]  # fmt: skip
    k = io.read_kspace(mrd(tmp_path / "k.h5", lines, final=(4, 6), centre=2))  # step 2 is row 3
    right = np.zeros((3, 6, 8), np.complex64)
    right[:, 1], right[:, 2, 3:], right[:, 3] = COILS[:, 0], part, (COILS[:, 3] + again) / 2
    np.testing.assert_allclose(k.data, right, atol=1e-6)
    assert k.mask is not None
    np.testing.assert_array_equal(k.mask.sum(1), [0, 8, 5, 8, 0, 0])
    assert k.facts == {"reconstruction_size": (6, 4)}
    assert k.notes == (
        "repetition 0 of 2 taken",
        "lines measured up to 2 times averaged",
        "readout oversampled: 8 samples for 4 pixels, to be cropped",
    )


def test_slices_of_acquisitions(tmp_path):
    path = mrd(tmp_path / "k.h5", [(1, COILS[:, s], {"slice": s}) for s in (0, 2)])
    np.testing.assert_array_equal(io.read_kspace(path, slice=2).data[:, 1], COILS[:, 2])
    with pytest.raises(ValueError, match="expected slice to be one of 0, 2, got none chosen of 2 slices"):
        io.read_kspace(path)
    with pytest.raises(ValueError, match="expected slice to be one of 0, 2, got 1"):
        io.read_kspace(path, slice=1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"trajectory": "radial"}, "xml: expected a Cartesian trajectory, got radial"),
        ({"depth": 5}, "xml: expected two-dimensional encoding, got a matrix of 8 x 6 x 5"),
        ({"size": (4, 6)}, "data: expected lines within the matrix 6 x 4, got acquisition 0 outside"),
        ({"size": (8, 1)}, "got acquisition 0 outside"),
        ({"size": (60000, 60000)}, "at most 67108864 numbers"),
    ],
)
def test_bad_acquisitions(tmp_path, changes, words):
    path = mrd(tmp_path / "k.h5", [(1, COILS[:, 1])], **changes)
    with pytest.raises(ValueError, match=r"k\.h5: ") as e:
        io.read_kspace(path)
    assert words in str(e.value)


def nan(n):
    a = SINGLE.copy()
    a.flat[:n] = np.nan
    return a


BAD = {
    "real.npy": (np.zeros((6, 8)), "expected complex numbers [H, W] or [coils, H, W], or real pairs in a last axis"),
    "line.npy": (np.zeros(6, complex), "expected [H, W], [coils, H, W] or [slices, coils, H, W], got (6,)"),
    "many.npy": (np.zeros((1, 1, 1, 6, 8), complex), "got (1, 1, 1, 6, 8)"),
    "last.npy": (samples(32, 24, 8), "expected the axes [coils, H, W], got shape (32, 24, 8), coils last?"),
    "slices.npy": (SLICES, "expected slice to be one of 0 to 3, got none chosen of 4 slices"),
    "nan.npy": (nan(3), "expected finite k-space, got 3 NaN or Inf among 48 samples"),
    "zeros.npy": (np.zeros((6, 8), complex), "expected k-space, got zeros alone"),
    "objects.npy": (np.array([[{}]]), "Python objects"),
    "none.npz": ({}, "expected k-space called kspace or y, or a single array, got nothing"),
    "several.npz": ({"a": SINGLE, "b": SINGLE}, "got 'a', 'b' (FILE.npz:NAME takes one)"),
    "mask.npz": ({"y": SINGLE, "mask": np.zeros((8, 6))}, "mask: expected a mask of 6 x 8, got shape (8, 6): trans"),
    "grey.npz": ({"y": SINGLE, "mask": np.arange(48).reshape(6, 8)}, "mask: expected a mask of 0 and 1 (or 0 and 255)"),
    "maps.npz": ({"y": COILS, "maps": COILS[:2]}, "maps: expected maps of (3, 6, 8) as the k-space, got shape"),
    "badmaps.npz": ({"y": SINGLE[None], "maps": nan(1)[None]}, "maps: expected finite numbers, got NaN or Inf"),
    "centred.npz": ({"y": SINGLE, "centred": np.array("yes")}, "centred: expected True or False, got yes"),
    "objects.npz": ({"kspace": np.array([[{}]])}, "kspace: expected an array of numbers, got one of Python objects"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_kspace(tmp_path, name):
    a, words = BAD[name]
    np.savez(tmp_path / name, **a) if isinstance(a, dict) else np.save(tmp_path / name, a)
    with pytest.raises(ValueError, match="expected") as e:
        io.read_kspace(tmp_path / name)
    assert str(e.value).startswith(f"{tmp_path / name}: ")
    assert words in str(e.value)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("datasets", "words"),
    [
        ({"x": SINGLE}, "expected a dataset kspace (fastMRI), or one group with xml and data (ISMRMRD), got 'x'"),
        ({"kspace": np.zeros((1, 6, 8))}, "kspace: expected complex numbers"),
        ({"kspace": np.zeros(6)}, "kspace: expected [slices, H, W] or [slices, coils, H, W], got (6,)"),
        ({"kspace/a": SINGLE}, "kspace: expected [slices, H, W]"),
        ({"kspace": np.zeros((1, 6, 8), "S3")}, "kspace: expected an array of numbers"),
        ({"kspace": SINGLE[None], "mask": np.ones(6)}, "mask: expected a mask of 6 x 8, got shape (6,)"),
    ],
)
def test_bad_hdf5(tmp_path, datasets, words):
    with pytest.raises(ValueError, match=r"k\.h5: ") as e:
        io.read_kspace(hdf5(tmp_path / "k.h5", **datasets))
    assert words in str(e.value)
    assert "\n" not in str(e.value)


def test_hdf5_that_promises_too_much_or_leads_elsewhere(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "bomb.h5", "w") as f:
        f.create_dataset("kspace", (1, 10**5, 10**5), np.complex64, chunks=(1, 100, 100))
    with pytest.raises(ValueError, match=r"bomb\.h5: kspace: expected at most 67108864 numbers"):
        io.read_kspace(tmp_path / "bomb.h5")
    (tmp_path / "raw").write_bytes(SINGLE.tobytes())
    with h5py.File(tmp_path / "link.h5", "w") as f:
        f["kspace"] = h5py.ExternalLink("bomb.h5", "kspace")
    with h5py.File(tmp_path / "data.h5", "w") as f:
        f.create_dataset("kspace", (1, 6, 8), np.complex64, external=str(tmp_path / "raw"))
    for name in ("link", "data"):
        with pytest.raises(ValueError, match=rf"{name}\.h5: kspace: expected data within the file, got"):
            io.read_kspace(tmp_path / f"{name}.h5")


@pytest.mark.parametrize("left", [20, 600, -100])
def test_truncated_hdf5(tmp_path, left):
    path = hdf5(tmp_path / "k.h5", kspace=SLICES)
    os.truncate(path, left if left > 0 else path.stat().st_size + left)
    with pytest.raises(ValueError, match=r"k\.h5: expected") as e:
        io.read_kspace(path, slice=0)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("header", "size", "words"),
    [
        ("# Dimensions\n6 8 1 1\n", 100, "100 bytes of data where 48 complex numbers need 384"),
        ("# Dimensions\n100000 100000 1\n", 100, "at most 67108864 numbers"),
        ("# Dimensions\n6 x\n", 100, "no sizes"),
        ("6 8\n", 100, "no sizes"),
        ("# Dimensions", 100, "no sizes"),
        ("# Dimensions\n6 4 2\n", 384, "expected one slice, with x, y or z of size 1, got sizes (6, 4, 2)"),
        ("# Dimensions\n6 4 1 1 1 2\n", 384, "beyond x, y, z, coils, maps and slice, got [2] in dimensions [5]"),
    ],
)
def test_bad_bart(tmp_path, header, size, words):
    (tmp_path / "k.cfl").write_bytes(bytes(size))
    with pytest.raises(FileNotFoundError, match=r"k\.hdr: no such file"):
        io.read_kspace(tmp_path / "k.cfl")
    (tmp_path / "k.hdr").write_text(header)
    with pytest.raises(ValueError, match=r"k\.cfl: ") as e:
        io.read_kspace(tmp_path / "k.cfl")
    assert words in str(e.value)


def test_unknown_files(tmp_path):
    (tmp_path / "k.dat").write_bytes(bytes(100))
    with pytest.raises(ValueError, match=r"k\.dat: expected k-space, got a damaged or unknown file \(neither NPY, NPZ"):
        io.read_kspace(tmp_path / "k.dat")
    with pytest.raises(FileNotFoundError, match="no such file"):
        io.read_kspace(tmp_path / "nothing.npy")


def test_a_missing_package_is_named_with_its_extra(tmp_path, monkeypatch):
    path = hdf5(tmp_path / "k.h5", kspace=SLICES)
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(ValueError, match="no package") as e:
        io.read_kspace(path)
    told = "expected h5py to be installed for HDF5, got no package h5py: pip install 'fastrecon[mri]'"
    assert str(e.value) == f"{path}: {told}"


def test_maps_of_their_own(tmp_path):
    np.save(tmp_path / "m.npy", pairs(COILS))
    np.savez(tmp_path / "m.npz", sensitivities=COILS[None])
    for name in ("m.npy", "m.npz"):
        np.testing.assert_array_equal(io.read_maps(tmp_path / name, (3, 6, 8)), COILS)
    with pytest.raises(ValueError, match=r"m\.npy: maps: expected maps of \(2, 6, 8\) as the k-space"):
        io.read_maps(tmp_path / "m.npy", (2, 6, 8))


def ellipse(size, middle):
    rows, columns = (np.arange(n)[:, None] if k == 0 else np.arange(n)[None] for k, n in enumerate(size))
    inside = ((rows - middle[0]) / size[0] * 2.6) ** 2 + ((columns - middle[1]) / size[1] * 3) ** 2 < 1
    return inside * np.exp(2j * rows / size[0])


@pytest.mark.parametrize("sampled", ["all", "columns", "points"])
@pytest.mark.parametrize("size", [(64, 64), (65, 48)])
def test_conventions_are_told_apart(size, sampled):
    x, fft = ellipse(size, (size[0] // 2, size[1] // 2)), np.fft
    mask = np.ones(size) if sampled == "all" else (RNG.random(size if sampled == "points" else size[1:]) < 0.3) * 1.0
    mask = np.broadcast_to(mask, size).copy()
    mask[..., size[1] // 2 - 2 : size[1] // 2 + 3] = 1
    for image in (True, False):
        y = fft.fftshift(fft.fft2(fft.ifftshift(x) if image else x)) * mask
        y += 0.01 * np.abs(y).max() * samples(*size) * mask
        found = io.looks_centred(np.stack([y, 2 * y]), mask)
        assert (found.kspace_centred, found.image_centred) == (True, image)
        found = io.looks_centred(fft.ifftshift(y))
        assert (found.kspace_centred, found.image_centred) == (False, image)
        place = "middle" if image else "corner"
        assert (
            f"zero frequency in the corner (evidence -{abs(found.kspace):.2f}), origin of the image in the {place}"
            in str(found)
        )


def test_conventions_that_do_not_show_are_unknown():
    found = io.looks_centred(samples(64, 64))
    assert (found.kspace_centred, found.image_centred) == (None, None)
    assert "zero frequency unknown" in str(found)
    assert io.looks_centred(np.zeros((8, 8), complex)) == io.Centring(0, 0)
    full = np.fft.fft2(np.ones((32, 32)) + 0.1 * RNG.random((32, 32)))
    assert io.looks_centred(full).image_centred is None


def test_results_of_kspace_in_kind(tmp_path):
    image = samples(6, 8)
    path = io.write_picture(tmp_path / "x", image, io.Form(".cfl", "complex64"))
    np.testing.assert_array_equal(io.read_kspace(path).data[0], image)
    h5py = pytest.importorskip("h5py")
    for a in (image, np.abs(image)):
        with h5py.File(io.write_picture(tmp_path / "y", a, io.Form(".h5", "complex64"))) as f:
            np.testing.assert_array_equal(f["reconstruction"], a)
            np.testing.assert_array_equal(io.read_picture(tmp_path / "y.h5").pixels, a)
            assert f["reconstruction"].dtype == a.dtype


def test_images_of_fastmri(tmp_path):
    a = RNG.random((4, 6, 8)).astype(np.float32) * 1e-4
    path = hdf5(tmp_path / "x.h5", kspace=SLICES, reconstruction_rss=a)
    found = io.read_picture(path, slice=1)
    np.testing.assert_array_equal(found.pixels, a[1])
    assert (found.form, found.white, found.notes[0]) == (io.Form(".h5", "float32"), None, "slice 1 of 4")
    with pytest.raises(ValueError, match=r"x\.h5: reconstruction_rss: expected slice to be one of 0 to 3, got none"):
        io.read_picture(path)
    with pytest.raises(ValueError, match=r"y\.h5: expected a dataset reconstruction or .*, got 'kspace'"):
        io.read_picture(hdf5(tmp_path / "y.h5", kspace=SLICES))
