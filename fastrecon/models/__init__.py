"""Trained methods, a family a file; `load` gives one by its name."""

from fastrecon.models import error_controlled_method, error_controlled_photographs
from fastrecon.models.base import MODELS, Model, load, pretrained, register, trained
from fastrecon.models.block_sensing import BlockSensingModel
from fastrecon.models.descent import DescentModel
from fastrecon.models.error_controlled import ErrorControlledModel
from fastrecon.models.ista_net import ISTANetModel
from fastrecon.models.learned_fista import ScheduleModel
from fastrecon.models.padnet import PADNetModel
from fastrecon.models.prior import PriorModel
from fastrecon.models.separation import Separation
from fastrecon.models.sgp import DirectModel, StepModel
from fastrecon.models.sparse_coding import PatchDenoiser, SparseCoder
from fastrecon.models.unrolled import UnrolledModel

__all__ = [
    "MODELS",
    "BlockSensingModel",
    "DescentModel",
    "DirectModel",
    "ErrorControlledModel",
    "ISTANetModel",
    "Model",
    "PADNetModel",
    "PatchDenoiser",
    "PriorModel",
    "ScheduleModel",
    "Separation",
    "SparseCoder",
    "StepModel",
    "UnrolledModel",
    "error_controlled_method",
    "error_controlled_photographs",
    "load",
    "pretrained",
    "register",
    "trained",
]
