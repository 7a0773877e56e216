"""Trained models for other programs: a folder for C, a package of AOTInductor, a graph of torch.export.

The model's own file and card stay the truth: what is exported is made of them, and can be made again.
"""

import shutil
import warnings
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind

from fastrecon import io
from fastrecon.checks import choice, expect
from fastrecon.models.base import Model
from fastrecon.models.block_sensing import BlockSensingModel
from fastrecon.models.blocks import BlockModel
from fastrecon.models.file import EVALUATED, Header, write
from fastrecon.models.sparse_coding import PatchDenoiser
from fastrecon.operators import BlockSensing, Wavelet
from fastrecon.ops.wavelets import lowpass
from fastrecon.solvers.lda import LDA
from fastrecon.solvers.wavelet_methods import FAINT, WaveletOptions

LIBRARY, HEADER, EXAMPLE, PACKAGE_EXAMPLE = "libfastrecon.so", "fastrecon.h", "example.c", "example.cc"
METHODS = ("", "fista")
BROUGHT = ("block_product", "feature_gradient_fwd", "feature_gradient_value", "select_descent", "shrink_eps", "squares")
BROUGHT += ("ladmm_iterations_",)  # ops of capi/torch_ops.cpp


def to_c(model: Model, folder: str | Path, method: str = "", options: WaveletOptions | None = None) -> dict[str, Path]:
    """What a C program needs to run a model: library, header, an example, and the model as `model`.

    Args:
        model: LDA for block compressed sensing without safeguard, of whole images; or D-LADMM for images.
        folder: where they are put; created if necessary.
        method: "": the model itself; "fista": FISTA for the measurements of the sampling matrix of a BlockSensingModel.
        options: of FISTA.

    Returns:
        The files, by name: library, header, example, model.

    Raises:
        ValueError: the model is another, or the package was built without the library.
    """
    op, (head, tensors) = "to_c", _for_c(model, choice(method, METHODS, "to_c", "method"), options)
    found = _texts(op, io.output_folder(folder), header=HEADER, example=EXAMPLE)
    found["model"] = Path(folder) / f"{method + '-' if method else ''}{model.name}.safetensors"
    write(found["model"], head, tensors)
    return found


def _texts(op: str, folder: Path, **texts: str) -> dict[str, Path]:
    """The library, and files of capi/ by name, copied into a folder."""
    here = Path(__file__).parent
    library = here / LIBRARY
    expect(library.is_file(), op, "library", f"{LIBRARY}, which is built with the extension on Linux", "none")
    place = next((p for p in (here / "capi", here.parent / "capi") if (p / HEADER).is_file()), here)
    found = {}
    for name, source in {"library": library, **{name: place / text for name, text in texts.items()}}.items():
        found[name] = folder / source.name
        with io.atomic(found[name]) as file, source.open("rb") as original:
            shutil.copyfileobj(original, file)
    return found


def _for_c(model: Model, method: str, options: WaveletOptions | None) -> tuple[Header, dict[str, Tensor]]:
    """Header and tensors with what C does not make itself: the sampling matrix, and parameters as they are used."""
    if method == "fista":
        expect(isinstance(model, BlockSensingModel), "to_c", "model", "one with a sampling matrix", model.name)
        assert isinstance(model, BlockSensingModel)
        return _fista(model, options or WaveletOptions())
    if isinstance(model, BlockSensingModel) and type(model.solver) is LDA:
        s = model.solver
        whole = not (s.safeguard or model.blockwise)
        expect(whole, "to_c", "model", "LDA of whole images, without safeguard", model.name)
        used = {"alpha": s.alpha, "tau": s.tau, "eps0": s.eps0.reshape(1)}
        return model.header(), _float(model.tensors() | {"phi": model.operator.phi} | _named(used))
    fits = isinstance(model, PatchDenoiser)
    expect(fits, "to_c", "model", "LDA for block-cs, or D-LADMM for images", f"{model.method} for {model.problem}")
    assert isinstance(model, PatchDenoiser)
    w, atoms = model.solver.stack(), model.operator.atoms
    sizes = {"tau1": atoms.shape[1], "beta": atoms.shape[0], "w2": atoms.shape[0], "tau2": atoms.shape[0]}
    used = {k: getattr(w, k).expand(model.solver.layers, n) for k, n in sizes.items()}
    head = model.header()
    head = replace(head, hyperparameters=head.hyperparameters | {"l1": w.l1})
    return head, _float(model.tensors() | _named(used))


def _named(used: dict[str, Tensor]) -> dict[str, Tensor]:
    return {EVALUATED + name: t for name, t in used.items()}


def _float(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: t.detach().cpu().float() for name, t in tensors.items()}


def _fista(model: BlockSensingModel, options: WaveletOptions) -> tuple[Header, dict[str, Tensor]]:
    sensing: BlockSensing = model.operator
    wavelet = Wavelet(options.wavelet, options.level, (sensing.block, sensing.block))
    given = options.number()
    lam = (FAINT if given is None else given) * options.lam_factor
    settings: dict[str, Any] = asdict(options) | {
        "block": sensing.block, "lam": lam, "lipschitz": sensing.norm() ** 2, "taps": list(lowpass(options.wavelet)),
    }  # fmt: skip
    assert wavelet.isometry  # so that |A W*| <= |A|
    return Header("fista", model.problem, f"fista-{model.name}", settings, model.header().operator), _float(
        {"phi": sensing.phi}
    )


class _Images(nn.Module):
    """Images of measurements that passed `check`."""

    def __init__(self, model: Model, options: dict[str, Any]):
        super().__init__()
        self.model, self.options = model, options

    def forward(self, y: Tensor) -> Tensor:
        """Those of y [B, ...]."""
        return self.model.compute(y, **self.options)[0]


class _Patches(nn.Module):
    """The images of D-LADMM, of whole patches, without certificate."""

    def __init__(self, model: PatchDenoiser):
        super().__init__()
        self.solver, self.side = model.solver, model.side

    def forward(self, y: Tensor) -> Tensor:
        """Like y [B, 1, H, W]."""
        patches = y.unflatten(2, (-1, self.side)).unflatten(4, (-1, self.side)).transpose(3, 4)
        found = self.solver.run(patches.reshape(-1, self.side**2), self.solver.layers).az
        return found.reshape(patches.shape).transpose(3, 4).reshape(y.shape)


def exported(model: Model, y: Tensor | None = None, **options: Any) -> ExportedProgram:
    """The graph of a model, from measurements [B, ...] to images, for any batch.

    Block sensing: y [B, rows, cols, m] to [B, 1, H, W] of whole blocks, for any number of these. D-LADMM for images: y
    [B, 1, H, W] of whole patches, two or more high and wide. Other models: with an operator, for its size. Images have
    the bits of `model(y, **options)`, except that convolutions of PyTorch's (U-Nets) take a batch whole here, and that
    Fourier transforms are PyTorch's, also where the model uses those of csrc/fft2.cpp: they agree to rounding.

    Args:
        model: its trained phases, or so many iterations as `options` say, are traced.
        y: measurements of the shape that there will be, two or more; not needed for the first two kinds.
        options: of `compute`: operator, and what is found out by looking at numbers else, such as lipschitz of SGP.

    Raises:
        ValueError: y is needed.
    """
    graph: nn.Module = _Images(model, options)
    shapes: dict[int, Any] = {0: Dim("batch", min=1)}
    if isinstance(model, BlockModel):
        y = model.q.new_zeros(2, 3, 2, model.q.shape[1])
        shapes |= {1: Dim("rows", min=1), 2: Dim("cols", min=1)}
    elif isinstance(model, PatchDenoiser):
        graph, side = _Patches(model), model.side
        y = model.operator.atoms.new_zeros(2, 1, 3 * side, 2 * side)
        shapes |= {2: side * Dim("rows", min=2), 3: side * Dim("cols", min=2)}
    expect(isinstance(y, Tensor) and y.shape[0] > 1, "exported", "y", "measurements of two images or more", y)
    assert y is not None
    with torch.no_grad():
        return _settled(torch.export.export(graph.eval(), (y,), dynamic_shapes=(shapes,)))


def _settled(program: ExportedProgram) -> ExportedProgram:
    """The graph with parameters as they are used, such as steps of softplus: what compiles it may round otherwise."""
    names = {s.arg.name: str(s.target) for s in program.graph_signature.input_specs if s.kind == InputKind.PARAMETER}
    for node in [n for n in program.graph.nodes if n.name in names]:
        last, value = node, program.state_dict[names[node.name]]
        while len(last.users) == 1:
            (user,) = last.users
            alone = user.op == "call_function" and user.all_input_nodes == [last] and user.args[0] is last
            if not (alone and isinstance(user.meta["val"], Tensor) and user.meta["val"].shape == value.shape):
                break
            last, value = user, user.target(value, *user.args[1:], **user.kwargs)
        if last is not node:
            # negated twice: of a bare number the compiler makes a constant, which it cannot expand then
            with program.graph.inserting_after(node):
                used = program.graph.call_function(torch.ops.aten.neg.default, (node,))
            used.meta = dict(last.meta)
            last.replace_all_uses_with(used)
            program.state_dict[names[node.name]] = nn.Parameter(-value)
    program.graph.eliminate_dead_code()
    return program


def to_pt2(model: Model, folder: str | Path) -> dict[str, Path]:
    """A model as a package of AOTInductor, compiled for this machine, with the library that brings its ops.

    What the package takes: see `exported`. Without Python it needs libtorch 2.10 or newer; whoever runs it loads the
    library first, or imports fastrecon. Images have the bits of `model(y)` where both use one instruction set and one
    number of threads.

    Args:
        model: of block sensing, or D-LADMM for images.
        folder: where it is put; created if necessary.

    Returns:
        The files, by name: package, library, example (of C++).

    Raises:
        ValueError: the model has no operator of its own, or fastrecon was built without the library.
    """
    expected = "a model of block sensing, or D-LADMM for images"
    fits = isinstance(model, BlockModel | PatchDenoiser)
    expect(fits, "to_pt2", "model", expected, f"{model.method} for {model.problem}")
    return _packaged(model, exported(model), folder)


def _packaged(model: Model, graph: ExportedProgram, folder: str | Path) -> dict[str, Path]:
    called = {str(node.target).removesuffix(".default") for node in graph.graph.nodes if node.op == "call_function"}
    lacking = {name for name in called if name.startswith("fastrecon.")} - {f"fastrecon.{name}" for name in BROUGHT}
    expect(not lacking, "to_pt2", "model", f"one of ops that {LIBRARY} brings", ", ".join(sorted(lacking)))
    found = _texts("to_pt2", io.output_folder(folder), example=PACKAGE_EXAMPLE)
    path = Path(folder) / f"{model.name}.pt2"
    with io.atomic(path) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch about itself
        torch._inductor.aoti_compile_and_package(graph, package_path=file)
    return {"package": path, **found}
