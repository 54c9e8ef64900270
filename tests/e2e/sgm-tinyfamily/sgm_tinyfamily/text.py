"""Texts by their letters."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LetterEmbedder(nn.Module):
    """The mean of a learned vector for each letter, as one token.

    Args:
        width: of the token.
    """

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.letters = nn.Embedding(128, width)
        self.project = nn.Linear(width, width)

    def forward(self, texts: list[str]) -> Tensor:
        """b texts -> (b, 1, width)."""
        device = self.letters.weight.device
        rows = [
            self.letters(torch.tensor([ord(c) % 128 for c in text or " "], device=device)).mean(0) for text in texts
        ]
        return self.project(torch.stack(rows))[:, None]
