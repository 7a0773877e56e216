"""Forward operators: each a module with A(x), A.adjoint(y), A.norm(), composition A @ B and transposition A.T."""

from fastrecon.operators.base import LinearOperator
from fastrecon.operators.block_sensing import BlockSensing, measurements, random_phi
from fastrecon.operators.dictionary import Dictionary

__all__ = ["BlockSensing", "Dictionary", "LinearOperator", "measurements", "random_phi"]
