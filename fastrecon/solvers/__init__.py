"""Reconstruction methods, one a file."""

from fastrecon.solvers import (
    cg,
    haze_methods,
    hyper_laplacian,
    sliding_dct,
    smoothing,
    splitting_methods,
    tikhonov,
    two_layer,
    wavelet_methods,
    wiener,
)
from fastrecon.solvers.admm import ADMM
from fastrecon.solvers.admm_net import ADMMNet
from fastrecon.solvers.automatic import automatic
from fastrecon.solvers.blocks import Block, ErrorControlledBlocks
from fastrecon.solvers.cycle_spinning import CycleSpinning
from fastrecon.solvers.dladmm import DLADMM
from fastrecon.solvers.error_controlled import ErrorControlled
from fastrecon.solvers.gd_net import AGDNet, GDNet
from fastrecon.solvers.hqs import HQS
from fastrecon.solvers.ista import FISTA, ISTA
from fastrecon.solvers.ista_net import ISTANet
from fastrecon.solvers.ladmm import LADMM
from fastrecon.solvers.lasso import detail_weights
from fastrecon.solvers.lda import LDA
from fastrecon.solvers.lista import LISTA
from fastrecon.solvers.padnet import PADNet
from fastrecon.solvers.scheduled import ScheduledFISTA
from fastrecon.solvers.sgp import SGP
from fastrecon.solvers.smooth_descent import SmoothDescent
from fastrecon.solvers.total_variation import TVFista
from fastrecon.solvers.variational_network import VariationalNetwork

__all__ = [
    "ADMM",
    "DLADMM",
    "FISTA",
    "HQS",
    "ISTA",
    "LADMM",
    "LDA",
    "LISTA",
    "SGP",
    "ADMMNet",
    "AGDNet",
    "Block",
    "CycleSpinning",
    "ErrorControlled",
    "ErrorControlledBlocks",
    "GDNet",
    "ISTANet",
    "PADNet",
    "ScheduledFISTA",
    "SmoothDescent",
    "TVFista",
    "VariationalNetwork",
    "automatic",
    "cg",
    "detail_weights",
    "haze_methods",
    "hyper_laplacian",
    "sliding_dct",
    "smoothing",
    "splitting_methods",
    "tikhonov",
    "two_layer",
    "wavelet_methods",
    "wiener",
]
