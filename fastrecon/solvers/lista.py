"""LISTA: phases of ISTA in wavelet coefficients whose matrix, steps and thresholds are learned.

x+ = W* soft(W (x - rho B (A x - y)), theta), B in place of A* and the same in all phases; W is an orthonormal wavelet
transform, whose approximation is not thresholded.

Source: Gregor & LeCun, Learning Fast Approximations of Sparse Coding, ICML 2010; one matrix for all phases as in Chen,
Liu, Wang & Yin, Theoretical Linear Convergence of Unfolded ISTA and its Practical Weights and Thresholds, NeurIPS 2018.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from fastrecon.checks import integer
from fastrecon.operators.block_sensing import BlockSensing, product_per_image
from fastrecon.operators.wavelet import Wavelet
from fastrecon.ops.by_image import each_image
from fastrecon.solvers.lasso import detail_weights
from fastrecon.solvers.unrolled import State, Unrolled

WAVELET, LEVEL = "sym4", 3
FIRST_THRESHOLD = 0.01


class LISTA(Unrolled):
    """LISTA for blocks that are sampled alike; its images are whole blocks.

    Args:
        operator: A.
        phases: K.
    """

    def __init__(self, operator: BlockSensing, phases: int = 15):
        super().__init__(operator)
        self.phases = integer(phases, type(self).__name__, "phases", least=1)
        self.back = nn.Parameter(operator.phi.detach().T.clone())
        self.rho = nn.Parameter(torch.ones(self.phases))
        self.theta = nn.Parameter(torch.full((self.phases,), FIRST_THRESHOLD))

    def hyperparameters(self) -> dict[str, Any]:
        """What it is made with."""
        return {"phases": self.phases}

    def phase(self, k: int, s: State, y: Tensor) -> State:
        """One step of ISTA."""
        (x,), a = s, self.fidelity.operator
        assert isinstance(a, BlockSensing)
        size = x.shape[-2:]
        z = x - self.rho[k] * a.to_image(product_per_image(self.fidelity.residual(x, y), self.back.T), size)
        wavelet = Wavelet(WAVELET, LEVEL, size)

        def shrink(z: Tensor) -> Tensor:
            c = wavelet.forward(z)
            bound = self.theta[k] * detail_weights((c.shape[-2], c.shape[-1]), LEVEL, 1.0).to(c)
            return wavelet.apply_adjoint(c.sign() * relu(c.abs() - bound), size)

        return (each_image(shrink, z),)
