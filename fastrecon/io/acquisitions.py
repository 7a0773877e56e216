"""ISMRMRD files (extra `mri`): Cartesian acquisitions, sorted into k-space. Source: ismrmrd.readthedocs.io"""

from typing import Any

import numpy as np

from fastrecon.io.hdf5 import member
from fastrecon.io.limits import Refused, bounded, refuse
from fastrecon.io.reading import package

# of lines that are no part of the image, by names of ismrmrd.constants without ACQ_IS_
ASIDE = (
    "NOISE_MEASUREMENT", "PARALLEL_CALIBRATION", "NAVIGATION_DATA", "PHASECORR_DATA", "HPFEEDBACK_DATA",
    "DUMMYSCAN_DATA", "RTFEEDBACK_DATA", "SURFACECOILCORRECTIONSCAN_DATA", "PHASE_STABILIZATION_REFERENCE",
    "PHASE_STABILIZATION",
)  # fmt: skip
FIRST = ("contrast", "phase", "repetition", "set")  # of which the first is taken


def groups(file: Any) -> list[str]:
    """Names of the groups that hold a header and acquisitions."""
    return [name for name in file if hasattr(found := member(file, name), "keys") and {"xml", "data"} <= set(found)]


def sorted_lines(group: Any, slice: int | None) -> tuple[np.ndarray, np.ndarray, dict[str, Any], list[str]]:
    """k-space [coils, H, W] of a slice, where it was sampled [H, W] bool, facts and notes.

    Rows are phase-encoding steps, columns samples of the readout; the zero frequency is at (H // 2, W // 2). Lines
    measured several times are averaged.

    Raises:
        Refused: not Cartesian, three-dimensional, several slices and none chosen, or too large.
        Exception: the file is damaged.
    """
    constants, xsd = (package(f"ismrmrd.{name}", "mri", "ISMRMRD") for name in ("constants", "xsd"))
    header = xsd.CreateFromDocument(member(group, "xml")[0])
    encoding = header.encoding[0]
    kind = getattr(encoding.trajectory, "value", encoding.trajectory)
    refuse(kind != "cartesian", "a Cartesian trajectory", kind, "xml")
    size, final = encoding.encodedSpace.matrixSize, encoding.reconSpace.matrixSize
    refuse(size.z > 1, "two-dimensional encoding", f"a matrix of {size.x} x {size.y} x {size.z}", "xml")
    lines = member(group, "data")
    bounded(*lines.shape, lines.dtype.itemsize, what="bytes of headers", entry="data")
    heads = lines["head"]
    aside = np.uint64(sum(1 << (getattr(constants, f"ACQ_IS_{name}") - 1) for name in ASIDE))
    wanted = ((heads["flags"] & aside) == 0) & (heads["encoding_space_ref"] == 0)
    refuse(not wanted.any(), "lines of an image", "calibration or noise alone", "data")
    notes = [f"{(~wanted).sum()} lines of calibration, noise or navigation left aside"] if not wanted.all() else []
    wanted &= _slice(heads["idx"]["slice"], wanted, slice)
    for name in FIRST:
        steps = np.unique(heads["idx"][name][wanted])
        if len(steps) > 1:
            notes.append(f"{name} {steps[0]} of {len(steps)} taken")
            wanted &= heads["idx"][name] == steps[0]
    coils = int(heads["active_channels"][wanted].max())
    bounded(coils, size.y, size.x, what="numbers", entry="data")
    limits = getattr(encoding.encodingLimits, "kspace_encoding_step_1", None)
    first = size.y // 2 - (limits.center if limits is not None else size.y // 2)
    reverse = np.uint64(1 << (constants.ACQ_IS_REVERSE - 1))
    total, times = np.zeros((coils, size.y, size.x), np.complex128), np.zeros((size.y, size.x), np.int64)
    for k in np.flatnonzero(wanted):
        head = heads[k]
        samples = np.asarray(lines[k]["data"]).view(np.complex64).reshape(coils, head["number_of_samples"])
        samples = samples[:, int(head["discard_pre"]) : samples.shape[1] - int(head["discard_post"])]
        centre = int(head["center_sample"]) - int(head["discard_pre"])
        if head["flags"] & reverse:
            samples, centre = samples[:, ::-1], samples.shape[1] - 1 - centre
        row, start = int(head["idx"]["kspace_encode_step_1"]) + first, size.x // 2 - centre
        if not (0 <= row < size.y and start >= 0 and start + samples.shape[1] <= size.x):
            raise Refused(f"data: expected lines within the matrix {size.y} x {size.x}, got acquisition {k} outside")
        total[:, row, start : start + samples.shape[1]] += samples
        times[row, start : start + samples.shape[1]] += 1
    if times.max() > 1:
        notes.append(f"lines measured up to {times.max()} times averaged")
    facts = {"reconstruction_size": (int(final.y), int(final.x))}
    if final.x < size.x:
        notes.append(f"readout oversampled: {size.x} samples for {final.x} pixels, to be cropped")
    return (total / np.maximum(times, 1)).astype(np.complex64), times > 0, facts, notes


def _slice(slices: np.ndarray, wanted: np.ndarray, slice: int | None) -> np.ndarray:
    found = np.unique(slices[wanted]).tolist()
    choose = f"slice to be one of {', '.join(map(str, found[:20]))}"
    refuse(slice is None and len(found) > 1, choose, f"none chosen of {len(found)} slices")
    refuse(slice is not None and slice not in found, choose, slice)
    return slices == (found[0] if slice is None else slice)
