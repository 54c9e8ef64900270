"""What a network is told about the whole image (`y`), as a vector to add to the noise-level embedding.

The classes are torch layers with another forward, so that their parameters have the names of public checkpoints.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from sgm_plugins.sinusoidal import timestep_embedding

Labels = int | Literal["continuous", "timestep", "sequential"]
"""Number of classes, or: one real number, one number like a timestep, one vector per sample."""


def mlp(in_dim: int, dim: int) -> nn.Sequential:
    """Linear, SiLU, Linear."""
    return nn.Sequential(nn.Linear(in_dim, dim), nn.SiLU(), nn.Linear(dim, dim))


def label_embedding(labels: Labels, dim: int, timestep_dim: int, vector_dim: int | None) -> nn.Module:
    """The embedding of `y` into (b, dim).

    Args:
        labels: what `y` is.
        dim: of the result.
        timestep_dim: width of the sinusoidal embedding of "timestep".
        vector_dim: width of the vectors of "sequential".

    Raises:
        ValueError: `vector_dim` is missing for "sequential" or given for something else, or `labels` is none of these.
    """
    if (labels == "sequential") != (vector_dim is not None):
        raise ValueError(
            f"num_classes is {labels!r} and adm_in_channels is {vector_dim}: adm_in_channels is the width of y, "
            "given with num_classes 'sequential' and with nothing else"
        )
    if labels == "sequential" and vector_dim is not None:
        return VectorEmbedding(vector_dim, dim)
    if labels == "continuous":
        return NumberEmbedding(dim)
    if labels == "timestep":
        return TimestepEmbedding(timestep_dim, dim)
    if isinstance(labels, int) and labels >= 1:
        return ClassEmbedding(labels, dim)
    raise ValueError(
        f"num_classes is {labels!r}; known: the number of classes (1 or more), 'continuous', 'timestep', 'sequential'"
    )


class ClassEmbedding(nn.Embedding):
    """Class indices (b,) or (b, 1), integers -> (b, dim)."""

    def forward(self, y: Tensor) -> Tensor:
        if y.is_floating_point():
            raise ValueError(f"y is {y.dtype}; a network with num_classes {self.num_embeddings} takes integer indices")
        return super().forward(_numbers(y))


class NumberEmbedding(nn.Linear):
    """Real numbers (b,) or (b, 1) -> (b, dim)."""

    def __init__(self, dim: int) -> None:
        super().__init__(1, dim)

    def forward(self, y: Tensor) -> Tensor:
        return super().forward(_numbers(y)[:, None].to(self.weight.dtype))


class TimestepEmbedding(nn.Sequential):
    """Numbers in the range of timesteps, (b,) or (b, 1) -> (b, dim), through sinusoids as the noise level itself."""

    def __init__(self, timestep_dim: int, dim: int) -> None:
        super().__init__(nn.Identity(), mlp(timestep_dim, dim))  # checkpoints count the sinusoids as a layer
        self.timestep_dim = timestep_dim

    def forward(self, y: Tensor) -> Tensor:
        dtype = next(self.parameters()).dtype
        embedding: Tensor = self[1](timestep_embedding(_numbers(y), self.timestep_dim).to(dtype))
        return embedding


class VectorEmbedding(nn.Sequential):
    """Vectors (b, vector_dim) -> (b, dim)."""

    def __init__(self, vector_dim: int, dim: int) -> None:
        super().__init__(mlp(vector_dim, dim))
        self.vector_dim = vector_dim

    def forward(self, y: Tensor) -> Tensor:
        if y.ndim != 2 or y.shape[1] != self.vector_dim:
            raise ValueError(
                f"y is {tuple(y.shape)}; this network takes (b, {self.vector_dim}): change adm_in_channels to the "
                "summed width of the vector embeddings, or the embedders"
            )
        embedding: Tensor = self[0](y.to(next(self.parameters()).dtype))
        return embedding


def _numbers(y: Tensor) -> Tensor:
    """One number per sample, (b,)."""
    if y.ndim > 2 or (y.ndim == 2 and y.shape[1] != 1) or y.ndim == 0:
        raise ValueError(f"y is {tuple(y.shape)}; this network takes one number per sample, (b,) or (b, 1)")
    return y.flatten()
