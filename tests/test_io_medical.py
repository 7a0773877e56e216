"""NIfTI and DICOM: slices on their own scale, and results with the place in the patient."""

import gzip
import os
import sys

import numpy as np
import pytest

from fastrecon import io

RNG = np.random.default_rng(0)
VOLUME = RNG.integers(-1000, 3000, (6, 8, 5)).astype(np.int16)
AFFINE = np.array([[0, -1.5, 0, 10], [2, 0, 0, -20], [0, 0, 3, 30], [0, 0, 0, 1.0]])


@pytest.fixture
def nibabel():
    return pytest.importorskip("nibabel")


def nifti(nibabel, path, a, kind="Nifti1Image", **header):
    image = getattr(nibabel, kind)(a, AFFINE)
    for name, value in header.items():
        image.header[name] = value
    data = image.to_bytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("kind", ["Nifti1Image", "Nifti2Image"])
@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz", "x y.dat"])
def test_a_slice_of_a_volume(nibabel, tmp_path, name, kind):
    path = nifti(nibabel, tmp_path / name, VOLUME[..., None], kind)
    found = io.read_picture(path, slice=3)
    np.testing.assert_array_equal(found.pixels, VOLUME[:, :, 3])
    assert (found.pixels.dtype, found.white) == (np.float32, None)
    assert found.notes[0] == "slice 3 of 5"
    assert (found.form.suffix, found.form.dtype) == (".nii.gz" if name == "x.nii.gz" else ".nii", "float32")
    for slice, got in ((None, "none chosen of 5 slices"), (5, "5"), (-1, "-1")):
        with pytest.raises(ValueError, match=rf"expected slice to be one of 0 to 4, got {got}"):
            io.read_picture(path, slice=slice)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64, np.complex64])
def test_results_lie_where_the_slice_lay(nibabel, tmp_path, dtype):
    a = (VOLUME % 200).astype(dtype) * (1 + 1j if dtype == np.complex64 else 1)
    found = io.read_picture(nifti(nibabel, tmp_path / "x.nii.gz", a.astype(dtype)), slice=2)
    path = io.write_picture(tmp_path / "out", found.pixels, found.form)
    assert path == tmp_path / "out.nii.gz"
    again, before = nibabel.load(path), nibabel.load(tmp_path / "x.nii.gz")
    np.testing.assert_allclose(again.affine, before.slicer[:, :, 2:3].affine)
    assert again.header.get_xyzt_units()[0] == "mm"
    np.testing.assert_array_equal(np.asarray(again.dataobj)[..., 0], a[:, :, 2])
    np.testing.assert_array_equal(io.read_picture(path).pixels, found.pixels)
    first = path.read_bytes()
    assert io.write_picture(tmp_path / "out", found.pixels, found.form).read_bytes() == first
    with pytest.raises(ValueError, match=r"out\.nii\.gz: expected grey pixels"):
        io.write_picture(tmp_path / "out", np.zeros((2, 2, 3)), io.Form(".nii.gz", "float32"))


def test_values_are_rescaled(nibabel, tmp_path):
    path = nifti(nibabel, tmp_path / "x.nii", VOLUME[:, :, :1], scl_slope=1.0)
    raw = bytearray(path.read_bytes())
    raw[112:120] = np.array([0.5, 10], "<f4").tobytes()  # scl_slope, scl_inter
    path.write_bytes(raw)
    np.testing.assert_array_equal(io.read_picture(path).pixels, VOLUME[:, :, 0] * 0.5 + 10)
    path = nifti(nibabel, tmp_path / "y.nii", RNG.random((6, 8)).astype(np.float32))
    assert io.read_image(path).pixels.shape == (6, 8)
    with pytest.raises(ValueError, match=r"x\.nii: expected 1, 8 or 16-bit unsigned or floating-point pixels|scale"):
        io.read_image(tmp_path / "x.nii")


def test_masks_and_holes(nibabel, tmp_path):
    mask = VOLUME[:, :, 0] > 0
    path = nifti(nibabel, tmp_path / "m.nii", np.stack([mask, ~mask], 2).astype(np.uint8))
    np.testing.assert_array_equal(io.read_mask(path, (6, 8), slice=1), ~mask)
    path = nifti(nibabel, tmp_path / "x.nii", np.where(mask, 5, np.nan).astype(np.float32))
    np.testing.assert_array_equal(io.read_picture(path, holes=True).known, mask)


def test_bad_nifti(nibabel, tmp_path, capfd):
    whole = nifti(nibabel, tmp_path / "x.nii", VOLUME).read_bytes()
    bomb = bytearray(whole)
    bomb[40:48] = np.array([3, 30000, 30000, 5], "<i2").tobytes()
    colours = np.zeros((4, 4, 1), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    time = nifti(nibabel, tmp_path / "t.nii", np.zeros((4, 4, 1, 2), np.float32)).read_bytes()
    cases = {
        "bomb": (bytes(bomb), "at most 67108864 pixels"),
        "cut": (whole[:-200], "damaged or unknown"),
        "header": (whole[:300] + whole[344:360], "damaged or unknown"),
        "gzip": (gzip.compress(b"other" * 100), "no header of NIfTI"),
        "cut gzip": (gzip.compress(whole)[:-300], "damaged or unknown"),
        "time": (time, "expected a volume [i, j, slice], got shape (4, 4, 1, 2)"),
        "colours": (nifti(nibabel, tmp_path / "c.nii", colours).read_bytes(), "expected numbers, got colours"),
    }
    for name, (data, words) in cases.items():
        (tmp_path / f"{name}.nii").write_bytes(data)
        with pytest.raises(ValueError, match=rf"{name}\.nii: expected") as e:
            io.read_picture(tmp_path / f"{name}.nii", slice=4 if name not in ("time", "colours") else 0)
        assert words in str(e.value), name
        assert "\n" not in str(e.value)
    odd = bytearray(whole)
    odd[80:84] = np.array([-1], "<f4").tobytes()  # a size of voxels
    (tmp_path / "odd.nii").write_bytes(odd)
    np.testing.assert_array_equal(io.read_picture(tmp_path / "odd.nii", slice=4).pixels, VOLUME[:, :, 4])
    assert capfd.readouterr().err == ""


@pytest.fixture
def pydicom():
    return pytest.importorskip("pydicom")


def dicom(pydicom, path, a, kind="MONOCHROME2", **more):
    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = more.pop("syntax", pydicom.uid.ExplicitVRLittleEndian)
    data.file_meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    data.SOPClassUID, data.SOPInstanceUID = pydicom.uid.CTImageStorage, data.file_meta.MediaStorageSOPInstanceUID
    data.PatientName, data.PhotometricInterpretation = "Somebody", kind
    data.SamplesPerPixel, data.PixelRepresentation = 3 if kind == "RGB" else 1, int(a.dtype.kind == "i")
    data.BitsAllocated = data.BitsStored = 8 * a.itemsize
    data.HighBit = data.BitsStored - 1
    frames = a if a.ndim == 3 and kind != "RGB" else a[None]
    data.Rows, data.Columns = frames.shape[1:3]
    if len(frames) > 1:
        data.NumberOfFrames = len(frames)
    if kind == "RGB":
        data.PlanarConfiguration = 0
    data.PixelData = a.tobytes() + b"\0" * (a.nbytes % 2)
    for name, value in more.items():
        setattr(data, name, value)
    data.save_as(path, enforce_file_format=True)
    return path


def test_dicom_in_hounsfield_units(pydicom, nibabel, tmp_path):
    a = (VOLUME[:, :, 0] + 1000).astype(np.uint16)
    more = {"RescaleSlope": "2", "RescaleIntercept": "-1024", "PixelSpacing": ["0.5", "0.75"], "SliceThickness": "4"}
    place = {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "ImagePositionPatient": [10, 20, 30]}
    found = io.read_picture(dicom(pydicom, tmp_path / "x.dcm", a, **more, **place))
    np.testing.assert_array_equal(found.pixels, a * 2.0 - 1024)
    assert (found.white, found.form.suffix, found.form.dtype) == (None, ".nii", "float32")
    image = nibabel.load(io.write_picture(tmp_path / "out", found.pixels, found.form))
    np.testing.assert_array_equal(np.asarray(image.dataobj)[..., 0], found.pixels)
    # pixel (row 2, column 3) lies 3 * 0.75 to the left and 2 * 0.5 to the back of the first; NIfTI counts the other way
    np.testing.assert_allclose(image.affine @ [2, 3, 0, 1], [-(10 + 2.25), -(20 + 1), 30, 1])
    assert b"Somebody" not in (tmp_path / "out.nii").read_bytes()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16])
def test_dicom_of_all_depths(pydicom, tmp_path, dtype):
    a = (VOLUME[:, :, 0] % 250).astype(dtype)
    np.testing.assert_array_equal(io.read_picture(dicom(pydicom, tmp_path / "x.dcm", a)).pixels, a)
    inverted = io.read_picture(dicom(pydicom, tmp_path / "y.dcm", a, "MONOCHROME1"))
    np.testing.assert_array_equal(inverted.pixels, (-1 if dtype == np.int16 else np.iinfo(dtype).max) - a.astype(int))
    assert inverted.notes[0] == "MONOCHROME1 inverted: black is low"


def test_frames_and_colours_of_dicom(pydicom, tmp_path):
    path = dicom(pydicom, tmp_path / "x.dcm", np.moveaxis(VOLUME, 2, 0).copy())
    found = io.read_picture(path, slice=2)
    np.testing.assert_array_equal(found.pixels, VOLUME[:, :, 2])
    assert found.notes[0] == "frame 2 of 5"
    with pytest.raises(ValueError, match="expected slice to be one of 0 to 4, got none chosen of 5 slices"):
        io.read_picture(path)
    colours = RNG.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    found = io.read_picture(dicom(pydicom, tmp_path / "c.dcm", colours, "RGB"))
    np.testing.assert_array_equal(found.pixels, (colours / 255).astype(np.float32))
    assert (found.white, found.form) == (1, io.Form(".png", "uint8"))


def test_bad_dicom(pydicom, tmp_path, capfd):
    a = VOLUME[:, :, 0].copy()
    path = dicom(pydicom, tmp_path / "x.dcm", a)
    whole = path.read_bytes()
    rows = whole.index(b"\x28\x00\x10\x00US") + 8
    bomb = whole[:rows] + b"\xff\xff" + whole[rows + 2 : rows + 10] + b"\xff\xff" + whole[rows + 12 :]
    dicom(pydicom, tmp_path / "kind.dcm", a, "PALETTE COLOR")
    dicom(pydicom, tmp_path / "deflated.dcm", a, syntax=pydicom.uid.DeflatedExplicitVRLittleEndian)
    step = pydicom.Dataset()
    step.RescaleSlope, step.RescaleIntercept = "2", "0"
    group = pydicom.Dataset()
    group.PixelValueTransformationSequence = [step]
    dicom(pydicom, tmp_path / "groups.dcm", a, PerFrameFunctionalGroupsSequence=[group])
    (tmp_path / "cut.dcm").write_bytes(whole[:-50])
    (tmp_path / "head.dcm").write_bytes(whole[:140])
    (tmp_path / "bomb.dcm").write_bytes(bomb)
    words = {
        "kind": "expected grey or RGB, got PALETTE COLOR",
        "deflated": "expected a data set that is not deflated",
        "groups": "expected one rescaling for all frames",
        "cut": "damaged or unknown",
        "head": "expected",
        "bomb": "at most 67108864 pixels",
    }
    for name in words:
        with pytest.raises(ValueError, match=rf"{name}\.dcm: expected") as e:
            io.read_picture(tmp_path / f"{name}.dcm")
        assert words[name] in str(e.value), name
        assert "\n" not in str(e.value)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(("package", "name"), [("nibabel", "x.nii"), ("pydicom", "x.dcm")])
def test_a_missing_package_is_named_with_its_extra(tmp_path, monkeypatch, package, name):
    start = bytearray(400)
    start[344:348], start[128:132] = (b"n+1\0", bytes(4)) if package == "nibabel" else (bytes(4), b"DICM")
    (tmp_path / name).write_bytes(start)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=rf"{name}: expected {package} to be installed") as e:
        io.read_picture(tmp_path / name)
    assert str(e.value).endswith(f"got no package {package}: pip install 'fastrecon[medical]'")


def test_one_image_has_no_slices(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((3, 4)))
    io.read_picture(tmp_path / "x.npy", slice=0)
    with pytest.raises(ValueError, match=r"x\.npy: expected slice to be 0, got 1"):
        io.read_picture(tmp_path / "x.npy", slice=1)


def test_folders_list_names_of_two_parts(tmp_path):
    for name in ("a.nii.gz", "b.dcm", "c.gz", "d.NII"):
        (tmp_path / name).write_text("x")
    assert [os.path.basename(p) for p in io.expand([tmp_path])] == ["a.nii.gz", "b.dcm", "d.NII"]
