"""Trained models as deepinv's reconstructors: for its Trainer, `test` and tables."""

from typing import Any

from torch import Tensor

from fastrecon.adapters.deepinv._library import dinv
from fastrecon.adapters.deepinv.operators import from_physics
from fastrecon.adapters.deepinv.two_channel import TwoChannel, joined, parted
from fastrecon.certificates import Certificate
from fastrecon.checks import expect
from fastrecon.models import Model, load


def as_reconstructor(model: Model | str, **options: Any) -> "ModelReconstructor":
    """A trained model as a deepinv Reconstructor: `reconstructor(y, physics)`.

    Args:
        model: of `fastrecon.load`, or its name or file.
        options: of the model's `compute`, with every call.

    Raises:
        ValueError: it is no model.
    """
    model = load(model) if isinstance(model, str) else model
    expect(isinstance(model, Model), "as_reconstructor", "model", "a model of fastrecon", type(model).__name__)
    return ModelReconstructor(model, options)


class ModelReconstructor(dinv.models.Reconstructor):
    """Images of measurements by a trained model.

    Attributes:
        model: the model.
        report: the certificates of the last batch.
    """

    report: Certificate | None = None

    def __init__(self, model: Model, options: dict[str, Any]):
        super().__init__()
        self.model, self.options = model, options

    def forward(self, y: Tensor, physics: Any, **kwargs: Any) -> Tensor:
        """Images [B, C, H, W] of measurements y; of MRI with two real channels, as deepinv has them.

        A model with an operator of its own ignores the physics, which must be the same map.
        """
        own = self.model.operator
        operator = None if own is not None else from_physics(physics)
        two = isinstance(operator, TwoChannel) or (own is not None and own.complex_input and not y.is_complex())
        operator = operator.operator if isinstance(operator, TwoChannel) else operator
        found = self.model(joined(y) if two else y, operator=operator, **self.options)
        self.report = found.report
        return parted(found.x) if two else found.x
