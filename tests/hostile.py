"""Bodies and requests that nobody should send: sound files, and what random damage makes of them, by a seed."""

import io
import json
import random
import struct
import zipfile
from collections.abc import Iterator
from functools import cache

import numpy as np

SIDE = 16


@cache
def sound() -> dict[str, bytes]:
    """A small file of every kind that is taken."""
    import h5py
    import imagecodecs
    import tifffile
    from safetensors.numpy import save

    rng = np.random.default_rng(0)
    grey = rng.random((SIDE, SIDE)).astype(np.float32)
    mask = (rng.random((SIDE, SIDE)) < 0.6).astype(np.float32)
    files = {}
    for name, write in (
        ("npy", lambda f: np.save(f, grey)),
        ("npz", lambda f: np.savez(f, y=grey * mask, mask=mask)),
        ("tif", lambda f: tifffile.imwrite(f, (255 * grey).astype(np.uint8), metadata=None)),
    ):
        file = io.BytesIO()
        write(file)
        files[name] = file.getvalue()
    file = io.BytesIO()
    with h5py.File(file, "w") as h5:
        h5["image"] = grey
    files["h5"] = file.getvalue()
    files["png"] = bytes(imagecodecs.png_encode((255 * grey).astype(np.uint8)))
    files["safetensors"] = save({"y": grey * mask, "mask": mask})
    return files


@cache
def bombs() -> dict[str, bytes]:
    """Small bodies that promise or unpack to very much, or that run code where somebody unpickles."""
    head = b"{'descr': '<f8', 'fortran_order': False, 'shape': (100000, 100000), }"
    npy = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as z:
        shape = b"{'descr': '<f8', 'fortran_order': False, 'shape': (4000, 10000), }"
        z.writestr("y.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(shape)) + shape + bytes(8 * 4000 * 10000))
    objects = io.BytesIO()
    np.save(objects, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    ihdr = b"IHDR" + struct.pack(">IIBBBBB", 2**30, 2**30, 8, 0, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + ihdr + bytes(4)
    deep = ("[" * 10_000 + "]" * 10_000).encode()
    return {
        "npy of 10^10 numbers": npy,
        "npz of zeros": archive.getvalue(),
        "npy of objects": objects.getvalue(),
        "png of 10^18 pixels": png,
        "safetensors with a header of 2^60": struct.pack("<Q", 2**60) + b"{}",
        "safetensors of deep JSON": struct.pack("<Q", len(deep) + 1) + b"{" + deep,
        "safetensors of a list": struct.pack("<Q", 2) + b"[]",
        "safetensors of overlapping tensors": _overlapping(),
        "png alone": b"\x89PNG\r\n\x1a\n",
        "one byte": b"\x93",
        "zeros": bytes(4096),
    }


def _overlapping() -> bytes:
    head = json.dumps({"y": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 4]}}).encode()
    return struct.pack("<Q", len(head)) + head + bytes(4)


def fuzzed(count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """So many damaged bodies, each with the kind that it was."""
    draw, files = random.Random(seed), sound()
    for _ in range(count):
        kind = draw.choice(sorted(files))
        body = bytearray(files[kind])
        how = draw.randrange(6)
        if how == 0:
            del body[draw.randrange(len(body)) :]
        elif how == 1:
            body += draw.randbytes(draw.randrange(1, 200))
        elif how == 2:
            at = draw.randrange(len(body))
            body[at:at] = draw.randbytes(draw.randrange(1, 20))
        elif how == 3:
            body = bytearray(files[draw.choice(sorted(files))][: draw.randrange(1, 64)]) + body[draw.randrange(64) :]
        else:
            most = min(len(body), 200)  # headers most of all
            for _ in range(draw.randrange(1, 9)):
                body[draw.randrange(most if how == 4 else len(body))] = draw.randrange(256)
        yield kind, bytes(body)
