"""What an autoencoder is trained on: to reconstruct, with latents in shape, and to pass for real."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import interpolate, relu, softplus

from sgm_core.roles import Discriminator
from sgm_core.slots import describe
from sgm_plugins.perceptual.lpips import LPIPS

Factor = Annotated[float, Ge(0)]
Count = Annotated[int, Ge(1)]

LARGEST_WEIGHT = 1e4
"""Of the adaptive weight, where the discriminator's gradient vanishes: Esser et al. 2021, arXiv:2012.09841."""


@dataclass(frozen=True)
class Adversarial:
    """A discriminator D, trained along with the autoencoder, that tells reconstructions from images.

    Hinge loss (Lim & Ye 2017, arXiv:1705.02894): (relu(1 - D(x)) + relu(1 + D(y))) / 2; vanilla (Goodfellow et al.
    2014, arXiv:1406.2661): (softplus(-D(x)) + softplus(D(y))) / 2. The autoencoder's own is -D(y); all of them means.

    Attributes:
        discriminator: images -> logits.
        start: the optimizer step at which it starts to be trained, and to count.
        loss: of the discriminator.
        weight: of the autoencoder's adversarial loss.
        factor: of both adversarial losses.
        adaptive: multiply the weight by |d nll / d w| / (|d g / d w| + 1e-4), at most 1e4, w the decoder's last
            weight: both losses then pull alike. Esser et al. 2021, arXiv:2012.09841, eq. 7.
        lr_factor: its learning rate is the optimizer's times this.
        num_frames: frames per clip, if it looks at clips (b, c, t, h, w); None: at images.
    """

    discriminator: Discriminator
    start: Annotated[int, Ge(0)] = 0
    loss: Literal["hinge", "vanilla"] = "hinge"
    weight: Factor = 1.0
    factor: Factor = 1.0
    adaptive: bool = True
    lr_factor: Annotated[float, Gt(0)] = 1.0
    num_frames: Count | None = None


@dataclass(init=False, eq=False, repr=False)  # for the config alone: a mapping of the arguments stands for one
class AutoencoderLoss(nn.Module):
    """nll + weights * regularizer + adversarial loss, of images x and their reconstructions y.

    nll = sum (|x - y| + w * LPIPS(x, y)) / exp(s) + s, over an image and averaged over the batch, s the logarithm of
    a variance. Larsen et al. 2016, arXiv:1512.09300; Esser et al. 2021, arXiv:2012.09841. All of it is computed in
    float32 at least.

    Args:
        loss_type: of the reconstruction, |x - y| ("l1") or (x - y)^2 ("l2").
        perceptual: a distance of images that is added to that of their pixels, (b,).
        perceptual_weight: of the perceptual distance.
        logvar: where s starts.
        learn_logvar: learn s, too; otherwise it stays.
        scale_input_to_target: if reconstructions are of another size than the images, compare them at theirs.
        regularization_weights: of each loss that the regularizer gives, by name: {kl_loss: 1.0e-6}. 0 leaves one out.
        adversarial: a discriminator; none with None.
    """

    def __init__(
        self,
        loss_type: Literal["l1", "l2"] = "l1",
        perceptual: LPIPS | nn.Module | None = None,
        perceptual_weight: Factor = 1.0,
        logvar: float = 0.0,
        learn_logvar: bool = False,
        scale_input_to_target: bool = False,
        regularization_weights: dict[str, Factor] = {},  # noqa: B006 - the type that the schema shows; never changed
        adversarial: Adversarial | None = None,
    ) -> None:
        super().__init__()
        if loss_type not in ("l1", "l2"):
            raise ValueError(f"loss_type is {loss_type!r}; 'l1' and 'l2' work")
        self.loss_type = loss_type
        self.perceptual = None if perceptual is None else perceptual.requires_grad_(False)
        self.perceptual_weight = perceptual_weight
        self.logvar = nn.Parameter(torch.tensor(float(logvar)), requires_grad=learn_logvar)
        self.scale_input_to_target = scale_input_to_target
        self.regularization_weights = dict(regularization_weights)
        self.adversarial = adversarial
        self.discriminator = None if adversarial is None else cast(nn.Module, adversarial.discriminator)

    def target(self, x: Tensor, y: Tensor) -> Tensor:
        """The images that reconstructions y are compared with, of their size.

        Raises:
            ValueError: the sizes differ, and are not to be made equal.
        """
        if x.shape == y.shape:
            return x
        if not self.scale_input_to_target or x.shape[:2] != y.shape[:2]:
            raise ValueError(
                f"images of {describe(x)} were reconstructed as {describe(y)}; fit the decoder to the encoder"
                + ("" if self.scale_input_to_target else ", or set scale_input_to_target")
            )
        return interpolate(x, size=y.shape[-2:], mode="bicubic", antialias=True)

    def forward(
        self,
        x: Tensor,
        y: Tensor,
        regularizer: Mapping[str, Any],
        last_layer: Tensor | None = None,
        adversarial: bool = False,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The autoencoder's loss, and its parts by name, for logs.

        Args:
            x: images (b, c, h, w) in [-1, 1].
            y: their reconstructions.
            regularizer: the regularizer's log, whose losses have names that end in `_loss`.
            last_layer: the decoder's last weight, for the adaptive weight; None leaves that at 1, as where no
                gradients are.
            adversarial: whether the discriminator counts. Its parameters get no gradient from here.

        Raises:
            ValueError: the sizes of x and y; a loss of the regularizer without a weight, or a weight without a loss.
        """
        nll, parts = self._nll(self.target(x, y), y)
        loss = nll + self._regularization(regularizer, parts)
        if adversarial and self.adversarial is not None and self.discriminator is not None:
            frozen = {name: p.detach() for name, p in self.discriminator.named_parameters()}
            g = -functional_call(self.discriminator, frozen, (self._judged(y),)).float().mean()
            weight = self.adversarial.weight * self.adversarial.factor * g.new_ones(())
            if self.adversarial.adaptive and last_layer is not None:
                weight = weight * adaptive_weight(nll, g, last_layer)
            loss = loss + weight * g
            parts |= {"g_loss": g, "d_weight": weight}
        return loss, parts

    def discriminator_loss(self, x: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The discriminator's loss, and its parts by name, for logs. Nothing else gets a gradient from here."""
        assert self.adversarial is not None
        assert self.discriminator is not None
        real = self.discriminator(self._judged(self.target(x, y).detach())).float()
        fake = self.discriminator(self._judged(y.detach())).float()
        if self.adversarial.loss == "hinge":
            loss = 0.5 * (relu(1 - real).mean() + relu(1 + fake).mean())
        else:
            loss = 0.5 * (softplus(-real).mean() + softplus(fake).mean())
        loss = self.adversarial.factor * loss
        return loss, {"disc_loss": loss, "logits_real": real.mean(), "logits_fake": fake.mean()}

    def _nll(self, x: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        precise = torch.promote_types(y.dtype, torch.float32)
        difference = x.to(precise) - y.to(precise)
        error = difference.abs() if self.loss_type == "l1" else difference.square()
        parts = {"rec_loss": error.mean()}
        if self.perceptual is not None:
            distance = self.perceptual(x, y)  # (b,)
            error = error + self.perceptual_weight * distance.reshape(-1, *(1 for _ in error.shape[1:]))
            parts["perceptual_loss"] = distance.mean()
        logvar = self.logvar.to(precise)
        nll = (error / logvar.exp() + logvar).flatten(1).sum(1).mean()
        return nll, {**parts, "nll_loss": nll, "logvar": logvar}

    def _regularization(self, log: Mapping[str, Any], parts: dict[str, Tensor]) -> Tensor | float:
        """The weighted sum of the regularizer's losses; they, and its other numbers, join the parts."""
        losses = {name: value for name, value in log.items() if name.endswith("_loss")}
        weights = self.regularization_weights
        if losses.keys() != weights.keys():
            given = ", ".join(losses) or "no losses"
            raise ValueError(
                f"loss.regularization_weights has weights for {', '.join(weights) or 'nothing'}, and the regularizer "
                f"gives {given}: give a weight to each, 0 to leave one out"
            )
        parts |= {name: value for name, value in log.items() if isinstance(value, Tensor) and not value.ndim}
        return sum((weights[name] * losses[name] for name in losses), start=0.0)

    def _judged(self, x: Tensor) -> Tensor:
        """Images as they are, or clips of them."""
        assert self.adversarial is not None
        frames = self.adversarial.num_frames
        if frames is None:
            return x
        if len(x) % frames:
            raise ValueError(f"{len(x)} frames are no whole number of clips of {frames} (adversarial.num_frames)")
        return x.reshape(-1, frames, *x.shape[1:]).transpose(1, 2)  # (clips, c, frames, h, w)


def adaptive_weight(nll: Tensor, g: Tensor, last_layer: Tensor) -> Tensor:
    """|d nll / d w| / (|d g / d w| + 1e-4), at most 1e4; a constant."""
    (of_nll,) = torch.autograd.grad(nll, last_layer, retain_graph=True)
    (of_g,) = torch.autograd.grad(g, last_layer, retain_graph=True)
    ratio: Tensor = torch.linalg.vector_norm(of_nll) / (torch.linalg.vector_norm(of_g) + 1e-4)
    return ratio.clamp(0.0, LARGEST_WEIGHT).detach()
