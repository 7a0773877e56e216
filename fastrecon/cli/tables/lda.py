"""Tables "lda-table1", 2, 4, 5 and "lda-fig6": block compressed sensing by LDA and the networks it is compared with.

Source: Chen, Liu, Ye & Zhang, Learnable Descent Algorithm for Nonsmooth Nonconvex Image Reconstruction
(arXiv:2007.11245), sections 4.2 and 4.3, whose numbers are means over Set11 with its own sampling matrices.
"""

import argparse
from collections.abc import Sequence
from typing import Any

from fastrecon.cli.tables.base import Further, Row, Table, Unit, means, names, register
from fastrecon.cli.tables.trained import MEASURED, Wanted, add_arguments, cells, quoted

RATIOS, JOINT = (10, 25, 50), (10, 30)
TABLE1 = {  # PSNR at 10, 25, 50%, and learned numbers
    "TVAL3": (22.99, 27.92, 33.55, None), "D-AMP": (22.64, 28.46, 35.92, None),
    "IRCNN": (24.02, 30.07, 36.23, 185_472), "ReconNet": (24.28, 25.60, 31.50, 22_914),
    "DR2-Net": (24.32, 28.66, None, 373_664), "ISTA-Net+, shared": (26.51, 32.08, 37.59, 37_450),
    "ISTA-Net+": (26.64, 32.57, 38.07, 336_978), "DPA-Net": (26.99, 31.74, 36.73, 9_519_750),
    "LDA": (27.42, 32.92, 38.50, 27_967),
}  # fmt: skip
TABLE2 = {  # PSNR at 10 and 30%, and learned numbers besides the sampling
    "CS-Net": (28.10, 33.86, 370_560), "SCS-Net": (28.48, 34.62, 587_520), "BCS-Net": (29.43, 35.60, 1_117_440),
    "AMP-Net": (29.45, 35.90, 229_254), "LDA": (30.03, 36.47, 27_967),
}  # fmt: skip
TABLE4 = {8: (25.60, 1_815, 0.035), 16: (26.36, 7_071, 0.059), 32: (26.79, 27_951, 0.106), 48: (26.88, 62_655, 0.171)}
TABLE5 = {2: (25.83, 9_519, 0.058), 4: (26.79, 27_951, 0.106), 6: (26.95, 46_383, 0.164)}
PHASES = 7  # of tables 4 and 5
SHIPPED = 11  # of the shipped networks, from which those with learned sampling begin
FIGURE6 = (3, 5, 7, 9)
NETWORKS = {"LDA": "lda", "GD-Net": "gd-net", "AGD-Net": "agd-net"}
HEADING = "PSNR in dB. Lines with `paper` are quoted, those with `here` measured."
PARAMETERS = Further("parameters", "Learned numbers.", 0, less=True)
SECONDS = Further("seconds", "Seconds a picture.", 3, less=True)


def lda(ratio: int, name: str = "", shipped: str = "", **settings: Any) -> Wanted:
    """LDA, or what `network` names, for a sampling ratio in per cent."""
    method = settings.get("network", "lda")
    known = {"ratio": ratio, "phases": PHASES} | settings
    return Wanted(name or f"{method}-cs-{ratio}", method, "lda-cs", known, shipped)


def ista_net(ratio: int, shared: bool) -> Wanted:
    """ISTA-Net+ for a sampling ratio in per cent."""
    name = f"ista-net-plus-{ratio}{'-shared' * shared}"
    return Wanted(name, "ista-net-plus", "ista-net", {"ratio": ratio, "plus": True, "shared": shared})


def table1(args: argparse.Namespace) -> list[Unit]:
    """Quoted numbers; shipped models; LDA and ISTA-Net+ trained alike."""
    wanted = {
        f"{ratio}%": {
            "LDA, shipped": lda(ratio, f"lda-cs-{ratio}-shipped", f"lda-cs-{ratio}"), "LDA": lda(ratio),
            "ISTA-Net+": ista_net(ratio, False), "ISTA-Net+, shared": ista_net(ratio, True),
            "LISTA": Wanted(f"lista-{ratio}", "lista", "ista-net", {"ratio": ratio, "network": "lista"}),
        }
        for ratio in RATIOS
    }  # fmt: skip
    return [*_quoted(TABLE1, RATIOS), *cells(args, wanted, "block-cs", "ratio", "method", {})]


def table2(args: argparse.Namespace) -> list[Unit]:
    """Quoted numbers, and LDA with learned sampling."""
    wanted = {
        f"{ratio}%": {
            "LDA": Wanted(
                f"lda-joint-{ratio}", "lda", "lda-joint", {"ratio": ratio, "phases": SHIPPED, "init": f"lda-cs-{near}"},
                f"lda-joint-{ratio}",
            )
        }
        for ratio, near in zip(JOINT, (10, 25), strict=True)
    }  # fmt: skip
    return [*_quoted(TABLE2, JOINT), *cells(args, wanted, "block-cs", "ratio", "method", {})]


def _quoted(table: dict[str, tuple[Any, ...]], ratios: Sequence[int]) -> list[Unit]:
    found: dict[str, dict[str, Row]] = {}
    for k, ratio in enumerate(ratios):
        row = {name: {"psnr": v[k], "parameters": v[-1]} for name, v in table.items()}
        found[f"{ratio}%"] = {name: cell for name, cell in row.items() if cell["psnr"] is not None}
    return quoted(found, "ratio", "method")


def table4(args: argparse.Namespace) -> list[Unit]:
    """Quoted numbers, and LDA with so many channels."""
    return _ablation(args, TABLE4, "channels")


def table5(args: argparse.Namespace) -> list[Unit]:
    """Quoted numbers, and LDA with so many convolutions."""
    return _ablation(args, TABLE5, "layers")


def _ablation(args: argparse.Namespace, table: dict[int, tuple[float, int, float]], setting: str) -> list[Unit]:
    row: dict[str, Row] = {
        f"{n} {setting}": {"psnr": psnr, "parameters": count, "seconds": seconds}
        for n, (psnr, count, seconds) in table.items()
    }
    wanted: dict[str, Wanted] = {}
    for n in table:
        changed: dict[str, Any] = {setting: n}
        wanted[f"{n} {setting}"] = lda(10, f"lda-cs-10-{n}-{setting}", **changed)
    return [
        *quoted({"10%": row}, "ratio", "network"), *cells(args, {"10%": wanted}, "block-cs", "ratio", "network", {})
    ]  # fmt: skip


def figure6(args: argparse.Namespace) -> list[Unit]:
    """GD-Net, AGD-Net and LDA with so many phases, each trained from scratch."""
    wanted = {
        f"{phases} phases": {
            name: lda(10, f"{network}-cs-10-{phases}-phases", network=network, phases=phases)
            for name, network in NETWORKS.items()
        }
        for phases in FIGURE6
    }
    return cells(args, wanted, "block-cs", "phases", "method", {})


def _draw6(rows: Sequence[Row]) -> Any:
    """PSNR against phases, a curve a network."""
    from fastrecon import figures

    found = means(rows, ("phases", "method", "psnr"))
    curves = {}
    for method in names(rows, "method"):
        at = {int(line.split()[0]): mean for (line, name), (mean, _) in found.items() if name == method}
        curves[method] = (sorted(at), [at[k] for k in sorted(at)])
    return figures.lines(curves, ("phases", "PSNR (dB)"), f"Block compressed sensing at 10%, {MEASURED}")


def _register(name: str, summary: str, units: Any, columns: tuple[str, str], draw: Any = None, *also: Further) -> None:
    register(
        Table(
            name, summary, add_arguments, units, (*columns, "psnr"), HEADING, also=(PARAMETERS, *also), draw=draw,
        )
    )  # fmt: skip


_register("lda-table1", "block compressed sensing: LDA beside other methods", table1, ("ratio", "method"))
_register("lda-table2", "sampling that is learned with the network", table2, ("ratio", "method"))
_register("lda-table4", "LDA with 8 to 48 channels", table4, ("ratio", "network"), None, SECONDS)
_register("lda-table5", "LDA with 2 to 6 convolutions", table5, ("ratio", "network"), None, SECONDS)
_register("lda-fig6", "LDA, GD-Net and AGD-Net with 3 to 9 phases", figure6, ("phases", "method"), _draw6)
