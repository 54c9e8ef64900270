"""What a class says of a parameter whose component it keeps frozen."""

from typing import NamedTuple


class Frozen(NamedTuple):
    """Of a constructor's parameter, in its class's `frozen_parts`: nothing but a config gives this part its weights.

    A config builds such a part with random numbers of its own, drawn from what the config says of it. So its weights
    are a function of that, and the rest of the model is the same whether the part is built at once, later, or never.

    Attributes:
        unless: the name of a flag; where a config sets it, the part is trained and built like any other.
        cached: the name of a flag; where a config sets it, the constructor gets the part as an `Unbuilt`.
    """

    cached: str
    unless: str | None = None
