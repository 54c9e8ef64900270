"""Draws the noise levels more often at which losses are large."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Self

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, distributed, nn

from sgm_core.randomness.samples import current
from sgm_core.roles import SigmaSampler
from sgm_plugins.sigma_samplers.draws import DrawnByQuantile
from sgm_plugins.sigma_samplers.wrapping import WrappingSigmaSampler, refuse

BESIDE = 1e-6
"""How far from a share the two quantiles are taken whose mean is the edge of two bins: it is between levels of a table,
not on one of them."""


class AdaptiveSigmaSampler(DrawnByQuantile, WrappingSigmaSampler):
    """Importance sampling by the measured loss: a level is drawn in proportion to p(sigma) sqrt(E[loss^2]).

    Nichol and Dhariwal 2021, arXiv:2102.09672, section 3.3. The inner law is cut into bins of equal probability; the
    mean squared loss of each is a running one over the samples that training draws there. Each sample's loss is then
    multiplied by how much rarer the inner law draws its level. So training still minimises the mean loss under the
    inner law, with gradients of less variance where those are as large as losses are.

    It learns in training mode only, from all samples of all processes. What a step has shown takes effect in the next
    one. In eval mode it is the inner law, so that `val_loss` keeps its meaning. It learns from losses that call
    `take_losses` and hold `measured`: `standard`, also within `uncertainty`. With any other it stays the inner law.

    `rand` is uniform in [0, 1).

    Args:
        sigma_sampler: the inner law, which needs a quantile.
        bins: how many, at most as many as the inner law has levels.
        memory: samples of a bin over which its running mean forgets. Until about as many were drawn, bins lean on the
            mean of all.
        inner_share: the share of the draws that come from the inner law whatever was measured, above 0 so that no level
            starves. The weight of a sample is at most 1 / inner_share.
        unbiased: whether the losses are weighted. Without, levels of large losses count more in what training
            minimises, since they are drawn more.

    Raises:
        ValueError: an inner law whose quantiles are not known, that is stratified, or has one level.
    """

    def __init__(
        self,
        sigma_sampler: SigmaSampler,
        bins: Annotated[int, Ge(2)] = 32,
        memory: Annotated[float, Ge(1)] = 200.0,
        inner_share: Annotated[float, Gt(0), Le(1)] = 0.25,
        unbiased: bool = True,
    ) -> None:
        super().__init__(sigma_sampler)
        refuse(
            "adaptive",
            sigma_sampler,
            stratifies="draws them together: put stratified around adaptive",
            adapts="changes them in training: leave out one of the two",
        )
        law = sigma_sampler.for_shape((1, 1, 64, 64)) if self.needs_shape else sigma_sampler  # of any size
        middles = law.quantile((torch.arange(bins, dtype=torch.float64) + 0.5) / bins)
        self.bins = len(set(middles.tolist()))
        if self.bins == 1:
            raise ValueError(f"sigma_sampler has one level, {middles[0]:g}; adaptive needs at least two to choose from")
        self.memory = memory
        self.inner_share = inner_share
        self.unbiased = unbiased
        self.measured: MeasuredLosses = MeasuredLosses(self.bins, memory)

    @property
    def adapts(self) -> bool:
        return True

    def around(self, inner: SigmaSampler, shape: Sequence[int]) -> SigmaSampler:
        """The same around another inner law; both learn for both."""
        other = AdaptiveSigmaSampler(inner, self.bins, self.memory, self.inner_share, self.unbiased)
        other.measured = self.measured
        return other

    def quantile(self, u: Tensor) -> Tensor:
        """In training mode that of the present law, in eval mode that of the inner one."""
        if not self.measured.training:
            return self.sigma_sampler.quantile(u)
        if current().samples:
            self.measured.begin(current().key)
        shares = self._shares().to(u)
        shares = shares / shares.sum()
        ends = shares.cumsum(0)
        index = torch.searchsorted(ends[:-1], u.contiguous(), right=True)
        within = ((u - ends[index]) / shares[index] + 1).clamp(0, 1)
        return self.sigma_sampler.quantile((index + within) / self.bins)

    def take_losses(self, sigma: Tensor, losses: Tensor) -> Tensor:
        if not self.measured.training:
            return losses
        bins = self._bins(sigma)
        rarer = 1 / (self.bins * self._shares())
        if torch.is_grad_enabled():
            self.measured.add(bins, losses)
        return losses * rarer[bins].to(losses.dtype) if self.unbiased else losses

    def _shares(self) -> Tensor:
        """Of each bin, how much is drawn from it, float32."""
        root = self.measured.mean_squares().clamp(min=torch.finfo(torch.float32).tiny).sqrt()
        return self.inner_share / self.bins + (1 - self.inner_share) * root / root.sum()

    def _bins(self, sigma: Tensor) -> Tensor:
        """The bin of each sigma (b,). A level of a table in which two bins meet counts to the upper one."""
        sigma = sigma.cpu() if sigma.device.type == "mps" else sigma  # has no float64
        at = torch.arange(1, self.bins, dtype=torch.float64, device=sigma.device) / self.bins
        edges = (self.sigma_sampler.quantile(at - BESIDE) + self.sigma_sampler.quantile(at + BESIDE)) / 2
        return torch.searchsorted(edges, sigma.double(), right=True).to(self.measured.pending.device)


class MeasuredLosses(nn.Module):
    """The running mean of squared losses in each bin, the same in all processes.

    Nothing waits for the device. Adding the losses of a batch sums over the processes, so that any checkpoint is whole.

    Args:
        bins: how many.
        memory: samples of a bin over which its mean forgets.

    Attributes:
        weighted: of each bin the weighted sum of squared losses, and `evidence` that of the weights, at most 1.
        pending: sums and numbers of the losses of the step under way, (2, bins).
    """

    keys_optional = True
    """A model without a history starts one."""

    weighted: Tensor
    evidence: Tensor
    pending: Tensor

    def __init__(self, bins: int, memory: float) -> None:
        super().__init__()
        self.memory = memory
        self.register_buffer("weighted", torch.zeros(bins))
        self.register_buffer("evidence", torch.zeros(bins))
        self.register_buffer("pending", torch.zeros(2, bins))
        self._step: tuple[int, ...] | None = None

    def mean_squares(self) -> Tensor:
        """The estimate of each bin, float32: as far as evidence is missing, the mean of all bins. Equal at first."""
        evidence = self.evidence.sum()
        of_all = torch.where(evidence > 0, self.weighted.sum() / evidence, 1.0)
        return self.weighted + (1 - self.evidence) * of_all

    @torch.no_grad()
    def add(self, bins: Tensor, losses: Tensor) -> None:
        """Take in the losses (b,) of samples in these bins. One whose square is not finite counts as none."""
        squares = losses.detach().float().square()
        # not a scatter, whose order of additions is not fixed on every device
        found = (bins[:, None] == torch.arange(len(self.weighted), device=bins.device)) & squares.isfinite()[:, None]
        added = torch.stack([torch.where(found, squares[:, None], 0).sum(0), found.sum(0)])
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(added)
        key = current().key
        self.begin(key)
        self.pending += added
        if not key:  # no step of a training
            self._merge()

    @torch.no_grad()
    def begin(self, step: tuple[int, ...]) -> None:
        """A batch of this step comes: what earlier steps have shown takes effect."""
        if step != self._step:
            self._merge()
            self._step = step

    def _merge(self) -> None:
        sums, counts = self.pending
        keep = (1 - 1 / self.memory) ** counts
        self.weighted.copy_(keep * self.weighted + (1 - keep) * sums / counts.clamp(min=1))
        self.evidence.copy_(keep * self.evidence + (1 - keep))
        self.pending.zero_()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Follow `.to(device)`, but stay float32."""
        before = dict(self._buffers)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, moved in self._buffers.items():
            if moved is not None and moved.dtype != torch.float32:
                self._buffers[name] = before[name].to(moved.device)  # type: ignore[union-attr]
        return self
