"""Names of files: what may be read, what may be written, and how a file appears complete or not at all."""

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

BUNDLED = "skimage:"  # before the name of an image that comes inside scikit-image
LONGEST = 40  # characters of a wrong name in a message
LONGEST_REASON = 250
IMAGE_SUFFIXES = (
    ".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp", ".pbm", ".pgm", ".ppm", ".pnm", ".pfm", ".npy",
    ".nii", ".nii.gz", ".dcm",
)  # fmt: skip
KSPACE_SUFFIXES = (".npy", ".npz", ".h5", ".hdf5", ".cfl")
MEASUREMENT_SUFFIXES = (".npz", ".safetensors")

_KINDS = {
    stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
}  # fmt: skip


def shown(text: object) -> str:
    """A name for people, on one line of any output: bytes that are no text as \\xff, line breaks as \\n."""
    return "".join(c if c.isprintable() else _escaped(c) for c in str(text))


def encodable(text: str) -> str:
    """`text` with bytes that are no text as \\xff, so that JSON, CSV and metadata can hold it."""
    return "".join(_escaped(c) if "\ud800" <= c <= "\udfff" else c for c in text)


def _escaped(c: str) -> str:
    byte = ord(c) - 0xDC00  # how Python holds bytes of names that are not UTF-8
    return f"\\x{byte:02x}" if 0x80 <= byte <= 0xFF else c.encode("unicode_escape").decode("ascii")


def reason(e: BaseException) -> str:
    """What an exception says, on one line, cut where it quotes half a file."""
    while isinstance(e, OSError) and not e.strerror and isinstance(e.__cause__, OSError):
        e = e.__cause__  # what the system said, without what was said of it on the way
    text = e.strerror if isinstance(e, OSError) and e.strerror else str(e)
    text = shown(" ".join(text[: 4 * LONGEST_REASON].split()))
    return (text if len(text) <= LONGEST_REASON else f"{text[:LONGEST_REASON]}...") or type(e).__name__


def existing(path: str | Path) -> Path:
    """`path` if it is a regular file with contents, or a link to one.

    Raises:
        FileNotFoundError, ValueError: it is missing, empty, a folder, a pipe or a device.
    """
    name, path = shown(path), _named(path, "a file to read")
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError) as e:
        link = " (it is a link to nothing)" if path.is_symlink() else ""
        raise FileNotFoundError(f"{name}: no such file{link}") from e
    except OSError as e:
        raise ValueError(f"{name}: expected a readable file ({reason(e)})") from e
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"{name}: expected a file, got {_kind(found)}")
    if found.st_size == 0:
        raise ValueError(f"{name}: the file is empty (0 bytes)")
    return path


@contextlib.contextmanager
def text_name(path: Path) -> Iterator[str]:
    """A name of a file that is UTF-8, for readers that want no other (safetensors)."""
    if encodable(str(path)) == str(path):
        yield str(path)
        return
    with open(path, "rb") as file:
        yield f"/dev/fd/{file.fileno()}"


def bundled(name: str, argument: str = "skimage") -> Path:
    """The file of an image that comes inside scikit-image; `argument` asked for it.

    Raises:
        ValueError: there is none of that name.
    """
    import skimage.data

    folder = Path(skimage.data.__file__).parent
    names = {p.stem: p for p in sorted(folder.iterdir()) if p.suffix in (".png", ".jpg")}
    if name not in names:
        raise ValueError(f"{argument}: expected one of {', '.join(names)}, got {shown(name)[:LONGEST]!r}")
    return names[name]


def expand(inputs: Iterable[str | Path], suffixes: Sequence[str] = IMAGE_SUFFIXES) -> list[Path]:
    """The files that `inputs` name: files as they are, and of each folder those with a known suffix, sorted.

    skimage:NAME is an image that comes inside scikit-image.

    Raises:
        FileNotFoundError, ValueError: an input is missing or empty, or a folder holds no such file.
    """
    files: list[Path] = []
    for given in inputs:
        if isinstance(given, str) and given.startswith(BUNDLED):
            files.append(bundled(given.removeprefix(BUNDLED)))
            continue
        path = _named(given, "a file or folder to read")
        if not path.is_dir():
            files.append(existing(path))
            continue
        try:
            names = sorted(path.iterdir())
        except OSError as e:
            raise ValueError(f"{shown(path)}: expected a readable folder ({reason(e)})") from e
        found = [
            p
            for p in names
            if p.name.lower().endswith(tuple(suffixes)) and not p.name.startswith(".") and not p.is_dir()
        ]
        if not found:
            raise ValueError(f"{shown(path)}: expected a folder with files of type {', '.join(suffixes)}, found none")
        files += found
    return files


def output_folder(path: str | Path) -> Path:
    """`path` as a folder that exists and can be written to, created if necessary.

    Raises:
        ValueError: it has no name, or cannot be created or written to.
    """
    name, path = shown(path), _named(path, "an output folder")
    probe = path / _temporary()
    try:
        path.mkdir(parents=True, exist_ok=True)
        try:
            with open(probe, "xb") as f:  # permission bits do not tell: root, read-only mounts, full disks
                f.write(bytes(4096))
        finally:
            probe.unlink(missing_ok=True)
    except OSError as e:
        why = "it is a file" if path.is_file() else reason(e)
        raise ValueError(f"{name}: expected a writable output folder ({why})") from e
    return path


def output_file(path: str | Path) -> Path:
    """`path` as a file that can be written, its folder created if necessary: to be asked before long work.

    A file that is there will be replaced; see `free_to_write`. A link is replaced, not what it points to.

    Raises:
        ValueError: it has no name, is a folder, a pipe or a device, or its folder cannot be written to.
    """
    path = free_to_write(path, overwrite=True)
    output_folder(path.parent)
    return path


def free_to_write(path: str | Path, overwrite: bool = False) -> Path:
    """`path` if a file may be put there; nothing is created. To be asked of every output before long work.

    Args:
        path: of the file to be.
        overwrite: whether a regular file that is there may be replaced.

    Raises:
        ValueError: it has no name; a folder, a pipe or a device is there; or a file, unless `overwrite`.
    """
    name, path = shown(path), _named(path, "a file to write")
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return path  # a missing folder is made, a file in place of one is told, by output_folder
    except OSError as e:
        raise ValueError(f"{name}: expected the name of a file to write ({reason(e)})") from e
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"{name}: expected the name of a file to write, got {_kind(found)}")
    if not overwrite:
        raise ValueError(f"{name}: expected no such file, found one: choose another place, or overwrite it")
    return path


@contextlib.contextmanager
def atomic(path: str | Path) -> Iterator[IO[bytes]]:
    """A binary file that becomes `path` when the block ends, and vanishes if the block raises or is interrupted.

    Raises:
        ValueError: `path` has no name, or is a folder, a pipe or a device.
        OSError: it cannot be written, as on a full disk; the message names it.
    """
    path = free_to_write(path, overwrite=True)
    temporary = path.with_name(_temporary())  # short: a name of 255 bytes leaves no room for more
    try:
        with open(temporary, "xb") as f:
            yield f
            f.flush()
            _to_disk(f.fileno())  # else the name may outlive a power loss and the contents not
        os.replace(temporary, path)
    except OSError as e:
        if e.errno is None or e.filename not in (None, str(temporary)):
            raise  # of another file, read in the block
        told = OSError(f"{shown(path)}: could not be written ({reason(e)})")
        told.errno = e.errno
        raise told from e
    finally:
        with contextlib.suppress(OSError):  # also where its folder has gone
            temporary.unlink(missing_ok=True)


def _to_disk(file: int) -> None:
    try:
        os.fsync(file)
    except OSError as e:
        if e.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network folders have no fsync
            raise


def _temporary() -> str:
    # random, not the process id: threads share that, and containers on one folder do
    return f".fastrecon-{secrets.token_hex(8)}.tmp"


def _named(path: str | Path, what: str) -> Path:
    if str(path) == "" or "\0" in str(path):  # Path("") is the current folder, which nobody asked for
        raise ValueError(f"expected the name of {what}, got {str(path)!r}")
    return Path(path)


def _kind(found: os.stat_result) -> str:
    return _KINDS.get(stat.S_IFMT(found.st_mode), "something else")
