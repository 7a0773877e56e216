"""Files in and out: pictures, measurements, reports. Every failure is one line that names the file.

Nothing is half-written: each file is made under a temporary name in its folder and renamed once it is complete.
"""

from fastrecon.io.angles import read_angles
from fastrecon.io.centring import Centring, looks_centred, low_frequencies
from fastrecon.io.files import (
    BUNDLED,
    IMAGE_SUFFIXES,
    KSPACE_SUFFIXES,
    MEASUREMENT_SUFFIXES,
    atomic,
    bundled,
    encodable,
    existing,
    expand,
    free_to_write,
    output_file,
    output_folder,
    reason,
    shown,
    text_name,
)
from fastrecon.io.images import GreyImage, read_image, write_image
from fastrecon.io.kernels import read_kernel
from fastrecon.io.kspace import KSpace, mask_from_zeros, read_kspace, read_maps, write_kspace
from fastrecon.io.limits import max_pixels
from fastrecon.io.masks import read_mask
from fastrecon.io.matrices import read_matrix
from fastrecon.io.measurements import Measurements, read_measurements, write_measurements
from fastrecon.io.pictures import Form, Picture, read_picture, write_picture
from fastrecon.io.raster import LUMA
from fastrecon.io.reports import finite, write_csv, write_figure, write_json
from fastrecon.io.sinograms import Array, by_view, line_integrals, read_array
from fastrecon.io.slices import read_slices

__all__ = [
    "BUNDLED",
    "IMAGE_SUFFIXES",
    "KSPACE_SUFFIXES",
    "LUMA",
    "MEASUREMENT_SUFFIXES",
    "Array",
    "Centring",
    "Form",
    "GreyImage",
    "KSpace",
    "Measurements",
    "Picture",
    "atomic",
    "bundled",
    "by_view",
    "encodable",
    "existing",
    "expand",
    "finite",
    "free_to_write",
    "line_integrals",
    "looks_centred",
    "low_frequencies",
    "mask_from_zeros",
    "max_pixels",
    "output_file",
    "output_folder",
    "read_angles",
    "read_array",
    "read_image",
    "read_kernel",
    "read_kspace",
    "read_maps",
    "read_mask",
    "read_matrix",
    "read_measurements",
    "read_picture",
    "read_slices",
    "reason",
    "shown",
    "text_name",
    "write_csv",
    "write_figure",
    "write_image",
    "write_json",
    "write_kspace",
    "write_measurements",
    "write_picture",
]
