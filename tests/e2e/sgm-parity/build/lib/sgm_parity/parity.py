from torch import Tensor, nn


class ParityEmbedder(nn.Module):
    """Odd or even, as a learned vector (b, embed_dim)."""

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(2, embed_dim)

    def forward(self, labels: Tensor) -> Tensor:
        return self.embedding(labels % 2)
