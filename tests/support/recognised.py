"""What the installed families say of a file."""

from sgm_core.checkpoints.family import Model, Shapes
from sgm_core.checkpoints.recognise import recognise


def models_of(shapes: Shapes) -> list[Model]:
    """The published models that a file with these tensors may be."""
    return [model for claim in recognise(shapes) for model in claim.models]
