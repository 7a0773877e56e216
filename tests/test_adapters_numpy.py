"""SigPy, PyLops and ASTRA: adjoints by their own tests, projections to their own accuracy."""

import sys
from importlib import metadata

import numpy as np
import pytest
import torch

import fastrecon as fr
from fastrecon.adapters._peer import peer
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


def astra_scans():
    """Geometries with their views, and the kinds of ASTRA's projectors on the CPU."""
    astra = pytest.importorskip("astra", reason="ASTRA is optional")
    rows, columns = 20, 24
    volumes = astra.create_vol_geom(rows, columns), astra.create_vol_geom(rows, columns, -6, 6, -4, 6)
    for volume in volumes:
        yield "linear", astra.create_proj_geom("parallel", 1.0, 40, np.linspace(0, np.pi, 13, False)), volume
        yield "linear", astra.create_proj_geom("parallel", 0.5, 70, np.linspace(-1, 2, 9)), volume
    fan = astra.create_proj_geom("fanflat", 0.5, 90, np.linspace(0, 2 * np.pi, 16, False), 60.0, 30.0)
    yield "strip_fanflat", fan, volumes[0]


def test_numbers_of_astra():
    """Its CPU projector "linear" interpolates between pixels as ours, in float32. Of fans it has none: strips are
    another discretisation, of which smooth images know little."""
    astra = pytest.importorskip("astra", reason="ASTRA is optional")
    for kind, scan, volume in astra_scans():
        rows, columns = volume["GridRowCount"], volume["GridColCount"]
        i, j = np.mgrid[:rows, :columns]
        smooth = np.exp(-((i - 9) ** 2 + (j - 13) ** 2) / 30)
        x = np.random.default_rng(0).standard_normal((rows, columns)) if kind == "linear" else smooth
        a, projector = radon_from_astra(scan, volume), astra.create_projector(kind, scan, volume)
        sino, expected = astra.create_sino(x.astype(np.float32), projector)
        back, adjoint = astra.create_backprojection(expected, projector)
        y, z = a(x[None, None])[0, 0], a.adjoint(expected[None, None].astype(np.float64))[0, 0]
        for found, theirs in ((y, expected), (z, adjoint)):
            error = np.linalg.norm(found - theirs) / np.linalg.norm(theirs)
            assert error < (1e-4 if kind == "linear" else 2e-2), (kind, error)
        astra.data2d.delete([sino, back])
        astra.projector.delete(projector)


@pytest.mark.parametrize("name", operators())
def test_scico(name):
    linop = pytest.importorskip("scico.linop", reason="SCICO is optional")
    import jax

    a, shape = operators()[name]
    kind = np.complex64 if name == "fourier" else np.float32
    size = (1, *shape) if len(shape) == 2 else shape

    def through(function, out):
        def call(x):
            return jax.pure_callback(lambda x: np.asarray(function(np.asarray(x)[None])[0]), out, x)

        return call

    y = a(np.zeros((1, *size), kind))[0]
    source, target = jax.ShapeDtypeStruct(size, kind), jax.ShapeDtypeStruct(y.shape, y.dtype)
    forward = linop.LinearOperator(
        size, y.shape, through(a, target), through(lambda y: a.adjoint(y, size[-2:]), source), kind, y.dtype
    )
    assert linop.valid_adjoint(forward, forward.H, eps=1e-5)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ("0.4.1", "adapters.json: json: expected json >= 0.5, < 0.6, got 0.4.1, which is too old"),
        ("0.6.0", "adapters.json: json: expected json >= 0.5, < 0.6, got 0.6.0, which is newer than what was tried"),
        (None, "adapters.json: json: expected json >= 0.5, < 0.6, got none: pip install json"),
    ],
)
def test_versions_are_named(found, words, monkeypatch):
    def version(name):
        if found is None:
            raise metadata.PackageNotFoundError(name)
        return found

    monkeypatch.setattr(metadata, "version", version)
    with pytest.raises(ImportError) as caught:
        peer("json", "0.5", "0.6")
    assert str(caught.value) == words


@pytest.mark.parametrize("found", ["0.5", "0.5.0", "0.5.9rc1", "0.5.dev3"])
def test_versions_that_fit(found, monkeypatch):
    monkeypatch.setattr(metadata, "version", lambda name: found)
    assert peer("json", "0.5", "0.6").dumps(1) == "1"


def test_what_does_not_import_says_why(monkeypatch):
    monkeypatch.setattr(metadata, "version", lambda name: "0.5")
    monkeypatch.setitem(sys.modules, "json", None)
    with pytest.raises(ImportError, match=r"adapters.json: json: expected a package that imports, got import of json"):
        peer("json", "0.5", "0.6")
    with pytest.raises(AttributeError, match="no attribute 'numba': expected one of astra, deepinv"):
        _ = fr.adapters.numba
