"""SigPy, PyLops and ASTRA: adjoints by their own tests, projections to their own accuracy."""

import numpy as np
import pytest
import torch

import fastrecon as fr
from fastrecon.adapters.astra import radon_from_astra

pytestmark = pytest.mark.filterwarnings("ignore")


def operators():
    mask = np.random.default_rng(0).random((12, 14)) > 0.5
    return {
        "blur": (fr.operators.Blur(fr.operators.gaussian_kernel(1.0, 5)), (2, 12, 14)),
        "radon": (fr.operators.Radon((12, 14), 7), (12, 14)),
        "fourier": (fr.operators.Fourier(mask), (12, 14)),
    }


@pytest.mark.parametrize("name", operators())
def test_pylops(name):
    pylops = pytest.importorskip("pylops", reason="PyLops is optional")
    from fastrecon.adapters.pylops import as_pylops, from_pylops

    a, shape = operators()[name]
    p = as_pylops(a, shape)
    cmplx = 3 if np.issubdtype(p.dtype, np.complexfloating) else 0
    assert pylops.utils.dottest(p, *p.shape, complexflag=cmplx, rtol=1e-8)
    back = from_pylops(p)
    x = torch.randn(2, *((1, *shape) if len(shape) == 2 else shape), dtype=torch.float64)
    x = x.to(torch.complex128) if cmplx else x
    torch.testing.assert_close(back(x).flatten(), a(x).flatten())


@pytest.mark.parametrize("name", operators())
def test_sigpy(name):
    sigpy = pytest.importorskip("sigpy", reason="SigPy is optional")
    from fastrecon.adapters.sigpy import as_linop

    a, shape = operators()[name]
    p = as_linop(a, shape)
    rng = np.random.default_rng(1)
    x, y = (rng.standard_normal(s).astype(p.arrays.dtype) for s in (p.ishape, p.oshape))
    np.testing.assert_allclose(np.vdot(p(x), y), np.vdot(x, p.H(y)), rtol=1e-9)
    assert sigpy.app.MaxEig(p.N, dtype=p.arrays.dtype, show_pbar=False).run() > 0


def test_geometry_of_astra():
    volume = {"GridRowCount": 12, "GridColCount": 14, "option": {}}
    scan = {"type": "parallel", "DetectorCount": 21, "DetectorWidth": 1.5, "ProjectionAngles": np.arange(5) / 3}
    a = radon_from_astra(scan, volume)
    x = torch.randn(1, 1, 12, 14, dtype=torch.float64)
    b = fr.operators.Radon((12, 14), np.arange(5) / 3, 21, 1.5)  # type: ignore[arg-type]
    torch.testing.assert_close(a(x), b(x))
    fan = scan | {"type": "fanflat", "DistanceOriginSource": 40.0, "DistanceOriginDetector": 10.0}
    assert radon_from_astra(fan, volume).magnification == 1.25
    half = {"WindowMinX": -3.5, "WindowMaxX": 3.5, "WindowMinY": -3.0, "WindowMaxY": 3.0}
    assert radon_from_astra(scan, volume | {"option": half}).pixel == 0.5
    with pytest.raises(
        ValueError, match="radon_from_astra: proj_geom: expected a geometry of type parallel or fanflat"
    ):
        radon_from_astra({"type": "cone"}, volume)
    with pytest.raises(ValueError, match="radon_from_astra: vol_geom: expected square pixels"):
        radon_from_astra(scan, volume | {"option": half | {"WindowMaxX": 4.0}})
