"""Names of files, files that appear whole or not at all, reports and measurements: every fault is one line."""

import errno
import json
import os
import resource
import signal
import stat
import threading
import time
import zipfile

import numpy as np
import pytest

pytest.importorskip("PIL")

from safetensors.numpy import save_file

from fastrecon import io

ODD_NAMES = ["a b", "a\nb", "再构成", "$x$", "no\udcfftext", "-rf", "%s{}", "a\x1b[31m", "n" * 251]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_any_name_is_written_and_read(tmp_path, name):
    path = tmp_path / f"{name}.npz"[-255:]
    m = io.Measurements(np.ones((1, 2, 3), np.float32), (5, 9), {"source": name})
    io.write_measurements(path, m)
    assert io.read_measurements(path).facts == {"source": io.encodable(name)}
    other = tmp_path / f"{name}.safetensors"[-255:]
    io.write_measurements(other, m)
    assert io.read_measurements(other).facts == {"source": io.encodable(name)}
    io.write_json(tmp_path / f"{name}j"[-255:], {"input": path, name: [name]})
    written = json.loads((tmp_path / f"{name}j"[-255:]).read_bytes().decode("utf-8"))
    assert written == {"input": io.encodable(str(path)), io.encodable(name): [io.encodable(name)]}
    json.dumps(written, ensure_ascii=False).encode()  # no lone surrogates: other programs read it too
    io.write_csv(tmp_path / f"{name}c"[-255:], [{"image": name, "psnr": 1.5}])
    assert io.encodable(name) in (tmp_path / f"{name}c"[-255:]).read_text("utf-8")
    io.write_image(tmp_path / f"{name}.png"[-255:], np.zeros((2, 2)))
    assert len(os.listdir(tmp_path)) == 5
    os.truncate(path, 40)
    with pytest.raises(ValueError, match="damaged") as e:
        io.read_measurements(path)
    assert str(e.value).isprintable()


def test_a_table_has_rows(tmp_path):
    with pytest.raises(ValueError, match=r"t\.csv: expected rows to write, got none"):
        io.write_csv(tmp_path / "t.csv", [])


def test_shown():
    assert io.shown("a\nb\udcff\x1b\u2028") == "a\\nb\\xff\\x1b\\u2028"
    assert io.shown("café 图 $") == "café 图 $"
    assert io.encodable("a\nb\udcff\ud800") == "a\nb\\xff\\ud800"


def test_reasons_are_cut():
    assert io.reason(ValueError("a\n b")) == "a b"
    assert io.reason(ValueError("x" * 10**6)) == "x" * 250 + "..."


def test_threads_on_one_path(tmp_path):
    path, values, faults = tmp_path / "x.json", [[k] * 2000 for k in range(4)], []

    def write(value):
        try:
            for _ in range(20):
                io.write_json(path, value)
                assert json.loads(path.read_text()) in values
        except Exception as e:
            faults.append(e)

    threads = [threading.Thread(target=write, args=(v,)) for v in values]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert faults == []
    assert os.listdir(tmp_path) == ["x.json"]


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_permissions_are_those_of_any_new_file(tmp_path, mask):
    before = os.umask(mask)
    try:
        io.write_json(tmp_path / "x.json", 1)
        (tmp_path / "plain").touch()
    finally:
        os.umask(before)
    assert (tmp_path / "x.json").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, ValueError, MemoryError])
def test_whatever_interrupts_nothing_is_left(tmp_path, kind):
    def half():
        with io.atomic(tmp_path / "x") as f:
            f.write(b"half")
            raise kind

    with pytest.raises(kind):
        half()
    assert os.listdir(tmp_path) == []


def test_contents_are_on_the_disk_before_the_name(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(os, "fsync", lambda f: seen.append((os.fstat(f).st_size, os.listdir(tmp_path))))
    with io.atomic(tmp_path / "x") as f:
        f.write(b"whole")
    ((size, names),) = seen
    assert size == 5
    assert "x" not in names


def test_a_full_disk_is_told_with_the_name(tmp_path):
    path, before = tmp_path / "x.json", resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        with pytest.raises(OSError, match="could not be written") as e:
            io.write_json(path, list(range(1000)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert str(e.value) == f"{path}: could not be written (File too large)"
    assert e.value.errno == errno.EFBIG
    assert os.listdir(tmp_path) == []


def test_faults_of_other_files_keep_their_name(tmp_path):
    with pytest.raises(FileNotFoundError, match="other"), io.atomic(tmp_path / "x"):
        (tmp_path / "other").read_bytes()
    with pytest.raises(OSError, match=r"none/x: could not be written \(No such file or directory\)"):
        io.write_json(tmp_path / "none" / "x", 1)


def test_only_files_are_replaced(tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name, words in (
        (tmp_path / "folder", "a folder"), (tmp_path / "pipe", "a pipe"), ("/dev/null", "a device"),
        ("", "expected the name of a file to write, got ''"), ("a\0b", r"got 'a\\x00b'"),
        (tmp_path / ("n" * 256), "File name too long"),
    ):  # fmt: skip
        for ask in (io.free_to_write, io.output_file, lambda p: io.free_to_write(p, overwrite=True)):
            with pytest.raises(ValueError, match=words):
                ask(name)
        with pytest.raises((ValueError, OSError), match=words):
            io.write_json(name, 1)
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    assert sorted(os.listdir(tmp_path)) == ["folder", "pipe"]


def test_what_is_there_is_kept_unless_told(tmp_path):
    path = tmp_path / "x.json"
    assert io.free_to_write(path) == path
    assert io.free_to_write(tmp_path / "later" / "x.json") == tmp_path / "later" / "x.json"
    io.write_json(path, 1)
    with pytest.raises(ValueError, match=r"x\.json: expected no such file, found one"):
        io.free_to_write(path)
    assert io.free_to_write(path, overwrite=True) == io.output_file(path) == path
    assert os.listdir(tmp_path) == ["x.json"]


def test_a_link_is_replaced_and_not_what_it_points_to(tmp_path):
    (tmp_path / "target").write_text("mine")
    for name, target in (("link", "target"), ("nowhere", "none")):
        (tmp_path / name).symlink_to(target)
        io.write_json(tmp_path / name, 2)
        assert not (tmp_path / name).is_symlink()
    assert (tmp_path / "target").read_text() == "mine"
    assert not (tmp_path / "none").exists()


def test_outputs_have_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="expected the name of an output folder, got ''"):
        io.output_folder("")
    with pytest.raises(ValueError, match="expected the name of a file to write, got ''"):
        io.output_file("")
    assert io.output_folder(".") == io.output_file("x").parent  # the current folder, if it is named
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"file: expected a writable output folder \(it is a file\)"):
        io.output_folder(tmp_path / "file")
    with pytest.raises(ValueError, match="expected a writable output folder"):
        io.output_file("file/x")
    assert os.listdir(tmp_path) == ["file"]


def test_inputs_are_regular_files(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "broken.png").symlink_to("none")
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "file").write_text("x")
    for name, words in (
        (tmp_path / "pipe.png", "expected a file, got a pipe"), ("/dev/zero", "got a device"),
        (tmp_path / "broken.png", r"no such file \(it is a link to nothing\)"), (tmp_path, "got a folder"),
        (tmp_path / "loop.png", "expected a readable file"), (tmp_path / "file" / "x", "no such file"),
        (tmp_path / ("n" * 300), "File name too long"), ("", "name of a file to read, got ''"), ("\0", r"got '\\x00'"),
    ):  # fmt: skip
        for read in (io.existing, io.read_image, io.read_measurements):
            with pytest.raises((ValueError, FileNotFoundError), match=words):
                read(name)
    with pytest.raises(ValueError, match="name of a file or folder to read, got ''"):
        io.expand([""])
    (tmp_path / "link.png").symlink_to("file")
    assert io.existing(tmp_path / "link.png") == tmp_path / "link.png"


def test_a_pipe_by_the_name_of_a_device_is_no_file():
    read, write = os.pipe()  # as /dev/stdin is, behind `cat x.png |`
    try:
        with pytest.raises(ValueError, match=f"/dev/fd/{read}: expected a file, got a pipe"):
            io.read_image(f"/dev/fd/{read}")
    finally:
        os.close(read)
        os.close(write)


def test_folders_in_a_folder_are_no_images(tmp_path):
    (tmp_path / "x.png").mkdir()
    (tmp_path / "y.png").touch()  # an empty file is told when it is read, not left out
    assert io.expand([tmp_path]) == [tmp_path / "y.png"]


def test_permissions_are_told(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"/proc/self: expected a writable output folder \("):
        io.output_folder("/proc/self")  # not even by the administrator

    def denied(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", "x")

    (tmp_path / "x.png").write_text("x")
    monkeypatch.setattr("builtins.open", denied)
    with pytest.raises(ValueError, match=r"x\.png: expected a readable file \(Permission denied\)"):
        io.read_image(tmp_path / "x.png")


def test_ctrl_c_while_writing_leaves_nothing(tmp_path):
    def interrupted():
        with io.atomic(tmp_path / "x") as f:
            f.write(b"half")
            signal.raise_signal(signal.SIGINT)
            time.sleep(60)

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert os.listdir(tmp_path) == []


Y = np.ones((2, 3, 4), np.float32)
BAD_MEASUREMENTS = {
    "k-space": ({"y": Y.astype(complex)}, "y: expected float32 or float64 [rows, cols, m], got complex128 (2, 3, 4)"),
    "half": ({"y": Y.astype(np.float16)}, "y: expected float32 or float64 [rows, cols, m], got float16"),
    "empty": ({"y": Y[:0]}, "y: expected at least 1 x 1 numbers, got 0 x 3 x 4"),
    "batch": ({"y": np.stack([Y, Y])}, "y: expected float32 or float64 [rows, cols, m], got float32 (2, 2, 3, 4)"),
    "size of another": ({"y": Y, "size": (100, 20)}, "size: expected the size of an image of 2 x 3 square blocks"),
    "negative size": ({"y": Y, "size": (-5, 7)}, "size: expected (height, width), got [-5, 7]"),
    "fractions": ({"y": Y, "size": (5.5, 7.0)}, "size: expected (height, width)"),
    "huge size": ({"y": Y, "size": (10**6, 10**6)}, "size: expected at most 67108864 pixels"),
    "noise": ({"y": Y, "noise": "much"}, "noise: expected a finite number >= 0, got 'much'"),
    "noise below": ({"y": Y, "noise": -1.0}, "noise: expected a finite number >= 0, got '-1.0'"),
    "noise of many": ({"y": Y, "noise": np.ones(3)}, "noise: expected a finite number >= 0, got float64 (3,)"),
    "noise of objects": ({"y": Y, "noise": np.array({})}, "noise: expected an array of numbers, got one of Python"),
    "model": ({"y": Y, "model": 5}, "model: expected a text, got '5'"),
    "models": ({"y": Y, "model": ["a", "b"]}, "model: expected a text, got str32 (2,)"),
    "operator": ({"y": Y, "operator": np.ones((4, 4))}, "operator: expected a text, got float64 (4, 4)"),
    "fingerprint": ({"y": Y, "operator": "0.1 -2e-3 x"}, "operator: expected numbers, got '0.1 -2e-3 x'"),
    "ratio": ({"y": Y, "ratio": np.nan}, "ratio: expected a finite number >= 0, got 'nan'"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_MEASUREMENTS)
def test_entries_are_named(tmp_path, name):
    contents, words = BAD_MEASUREMENTS[name]
    np.savez(tmp_path / "m.npz", **contents)
    with pytest.raises(ValueError, match=r"m\.npz: ") as e:
        io.read_measurements(tmp_path / "m.npz")
    assert words in str(e.value)
    assert str(e.value).isprintable()


def member(text, data=b""):
    header = text.encode() + b"\n"
    return b"\x93NUMPY\x01\0" + len(header).to_bytes(2, "little") + header + data


HEADER = "{'descr': '<f4', 'fortran_order': False, 'shape': %s}"
BAD_ARCHIVES = {
    "promises": (member(HEADER % "(10**5, 10**5, 4)"), "damaged"),
    "bomb": (member(HEADER % "(100000, 100000, 4)", bytes(10**6)), "y: expected at most 67108864 numbers"),
    "more than it says": (member(HEADER % "(1, 1, 4)", bytes(10**6)), "y: 1000000 bytes of data where shape (1, 1, 4)"),
    "less than it says": (member(HEADER % "(9, 9, 9)", bytes(10)), "y: 10 bytes of data where shape (9, 9, 9)"),
    "no array": (b"text", "y: "),
    "code": (member("__import__('os')"), "y: "),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_ARCHIVES)
def test_members_are_checked_before_they_are_read(tmp_path, name):
    data, words = BAD_ARCHIVES[name]
    with zipfile.ZipFile(tmp_path / "m.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("y.npy", data)
    with pytest.raises(ValueError, match=r"m\.npz: ") as e:
        io.read_measurements(tmp_path / "m.npz")
    assert words in str(e.value)


def test_members_that_nobody_asked_for_are_not_read(tmp_path):
    bomb = member(HEADER % "(1000000000,)", bytes(10**7))
    with zipfile.ZipFile(tmp_path / "m.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in (("y", member(HEADER % "(1, 1, 2)", bytes(8))), ("bomb", bomb), ("noise", bomb[:0])):
            if data:
                archive.writestr(f"{name}.npy", data)
    np.savez(tmp_path / "more.npz", y=Y, notes=np.array([{}]), table=np.ones(9), unit="mV", when=3)
    assert io.read_measurements(tmp_path / "m.npz").facts == {}
    assert io.read_measurements(tmp_path / "more.npz").facts == {"unit": "mV", "when": 3}


def test_two_entries_of_one_name(tmp_path):
    data = member(HEADER % "(1, 1, 2)", bytes(8))
    with zipfile.ZipFile(tmp_path / "m.npz", "w") as archive:
        archive.writestr("y.npy", data)
        archive.writestr("y", data)  # numpy takes both for y
    with pytest.raises(ValueError, match="expected one array 'y', got two"):
        io.read_measurements(tmp_path / "m.npz")


@pytest.mark.parametrize("kind", [">f4", ">f8", "<f8"])
def test_any_byte_order_and_layout(tmp_path, kind):
    y = np.asfortranarray(np.arange(24.0).reshape(2, 3, 4)).astype(kind)
    np.savez(tmp_path / "m.npz", y=y)
    found = io.read_measurements(tmp_path / "m.npz").y
    np.testing.assert_array_equal(found, y)
    assert found.dtype.isnative
    assert found.flags.writeable


def test_facts_are_what_the_file_says(tmp_path):
    m = io.Measurements(Y, None, {"operator": "0.1 0.2", "ratio": 25, "noise": 0.0})
    for name in ("m.npz", "m.safetensors"):
        io.write_measurements(tmp_path / name, m)
        assert set(io.read_measurements(tmp_path / name).facts) == {"operator", "ratio", "noise"}
    for name in ("y", "size", "file"):
        with pytest.raises(ValueError, match="expected facts with names of their own"):
            io.write_measurements(tmp_path / "m.npz", io.Measurements(Y, None, {name: 1}))


@pytest.mark.parametrize(
    ("tensors", "metadata", "words"),
    [
        ({"y": Y.astype(np.float16)}, {}, "y: expected float32 or float64, got F16 (2, 3, 4)"),
        ({"y": Y.astype(np.int32)}, {}, "y: expected float32 or float64, got I32"),
        ({"x": Y}, {}, "expected an array y [rows, cols, m], got only nothing"),
        ({"y": Y}, {"noise": "-1"}, "noise: expected a finite number >= 0, got '-1'"),
        ({"y": Y, "size": np.array([1.5, 2])}, {}, "size: expected (height, width), got [1.5, 2.0]"),
    ],
)
def test_entries_of_safetensors_are_named(tmp_path, tensors, metadata, words):
    save_file(tensors, tmp_path / "m.safetensors", metadata)
    with pytest.raises(ValueError, match=r"m\.safetensors: ") as e:
        io.read_measurements(tmp_path / "m.safetensors")
    assert words in str(e.value)


@pytest.mark.parametrize("data", [b"\xff" * 8 + b"{}", b"\x02" + bytes(7) + b"[]", b"\0" * 9, b"{}"])
def test_headers_of_safetensors_that_lie(tmp_path, data):
    (tmp_path / "m.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match=r"m\.safetensors: expected measurements, got a damaged"):
        io.read_measurements(tmp_path / "m.safetensors")
