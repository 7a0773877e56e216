"""DICOM, by pydicom (extra `medical`): one frame, rescaled to the unit of its modality."""

import threading
import warnings
from typing import IO, Any

import numpy as np

from fastrecon.io.limits import bounded, chosen, refuse
from fastrecon.io.raster import Raster
from fastrecon.io.reading import package

AT, MAGIC = 128, b"DICM"
DEFLATED, HEAD = b"1.2.840.10008.1.2.1.99", 2**16  # a transfer syntax, named within the first bytes
GREY, COLOUR = ("MONOCHROME1", "MONOCHROME2"), ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_silence = threading.Lock()  # filters of warnings belong to all threads
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # DICOM counts left, posterior, superior; NIfTI right, anterior, superior


def recognised(start: bytes) -> bool:
    """Whether a file that starts so is DICOM."""
    return start[AT:].startswith(MAGIC)


def decode(file: IO[bytes], slice: int | None = None) -> Raster:
    """A frame [H, W] on the scale of its modality (of CT: Hounsfield units), or [H, W, 3] of 8 bits.

    Raises:
        Refused: several frames and none is chosen, another kind of pixels, too large, or pydicom is not installed.
        Exception: the file is damaged.
    """
    pydicom = package("pydicom", "medical", "DICOM")
    refuse(DEFLATED in file.read(HEAD), "a data set that is not deflated", "one of unknown size")
    file.seek(0)
    pixels = package("pydicom.pixels", "medical", "DICOM")
    with _silence, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # remarks on values against the standard
        data = pydicom.dcmread(file)
        refuse("PixelData" not in data, "an image", "a file without pixels")
        kind, bits = str(data.PhotometricInterpretation), int(data.BitsAllocated)
        refuse(kind not in GREY + COLOUR, "grey or RGB", kind)
        refuse(kind in COLOUR and bits != 8, "colours of 8 bits", f"{bits} bits")
        bounded(int(data.Rows), int(data.Columns))
        frames = int(data.get("NumberOfFrames") or 1)
        k = chosen(frames, slice)
        notes = [f"frame {k} of {frames}"] if frames > 1 else []
        refuse(_scaled_by_frame(data), "one rescaling for all frames", "functional groups with their own")
        a = pixels.pixel_array(data, index=k)  # YBR comes as RGB
        if kind in COLOUR:
            return Raster(a, 255, notes=notes)
        if kind == GREY[0]:
            a = (-1 if data.PixelRepresentation else 2 ** int(data.BitsStored) - 1) - a.astype(np.int64)
            notes.append("MONOCHROME1 inverted: black is low")
        a = np.asarray(pixels.apply_modality_lut(a, data), np.float32)
    return Raster(a, None, notes=notes, suffix=".nii", affine=_affine(data) if frames == 1 else None)


def _scaled_by_frame(data: Any) -> bool:
    groups = [*data.get("SharedFunctionalGroupsSequence", ()), *data.get("PerFrameFunctionalGroupsSequence", ())]
    steps = [step for group in groups for step in group.get("PixelValueTransformationSequence", ())]
    return any((float(s.get("RescaleSlope", 1)), float(s.get("RescaleIntercept", 0))) != (1, 0) for s in steps)


def _affine(data: Any) -> tuple[tuple[float, ...], ...] | None:
    """From pixel (row, column, 0, 1) to millimetres as NIfTI counts them; None where the file does not say.

    Source: DICOM PS3.3, C.7.6.2.1.1.
    """
    spacing = [float(s) for s in data.get("PixelSpacing") or ()]
    if len(spacing) != 2:
        return None
    out = np.eye(4)
    along = [float(v) for v in data.get("ImageOrientationPatient") or ()]
    origin = [float(v) for v in data.get("ImagePositionPatient") or ()]
    if len(along) == 6 and len(origin) == 3:
        down, right = np.array(along[3:]), np.array(along[:3])
        thick = float(data.get("SliceThickness") or 1)
        out[:3] = np.column_stack([down * spacing[0], right * spacing[1], np.cross(down, right) * thick, origin])
        out = LPS @ out
    else:
        out[0, 0], out[1, 1] = spacing
    return tuple(tuple(map(float, row)) for row in out)
