"""What the parts that autoencoders are made of and trained with promise."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sgm_core.slots import describe
from sgm_core.testing.contract import Contract
from sgm_core.testing.promises import finite, gradients_arrive, gradients_reach, independent
from sgm_core.testing.stand_ins import noise
from sgm_core.testing.subject import Subject


def finite_samples(subject: Subject, out: Any, x: Tensor, what: str) -> None:
    """A finite tensor of floating-point numbers, (b, channels, *grid), for each of the b inputs."""
    subject.expect(
        isinstance(out, Tensor) and out.ndim == x.ndim and len(out) == len(x) and out.is_floating_point(),
        f"it gives {what} for each input, channels second",
        f"{describe(out)} for {describe(x)}",
        "keep the samples on the first dimension and the grid on the last ones",
    )
    finite(subject, f"{what} are finite", out)


def gradients_pass(subject: Subject, module: nn.Module, out: Tensor, x: Tensor) -> None:
    """To what it was given, and to every parameter."""
    if out.requires_grad:
        out.float().square().mean().backward()  # type: ignore[no-untyped-call]
    gradients_arrive(subject, x)
    gradients_reach(subject, module, "delete what the call does not use")


class ImageContract(Contract):
    """Of what takes images: these, or noise of 32 x 32 pixels."""

    def __init__(self, subject: Subject, x: Tensor | None = None) -> None:
        super().__init__(subject)
        self.given = {"x": noise(2, 3, 32, 32, dtype=torch.float32).clamp(-1, 1) if x is None else x}


class EncoderContract(ImageContract):
    """Images in, (b, c', h', w') out."""

    def check(self) -> None:
        encoder, x = self.subject.build(), self.inputs()["x"].requires_grad_()
        out = encoder(x)
        finite_samples(self.subject, out, x, "latents")
        check_factor(self.subject, encoder, x, out)
        gradients_pass(self.subject, encoder, out, x)


class DecoderContract(Contract):
    """Latents in, images out; whole clips of them where it asks for frames."""

    def __init__(self, subject: Subject, z: Tensor | None = None) -> None:
        super().__init__(subject)
        self.given = {"z": noise(2, 4, 8, 8, dtype=torch.float32) if z is None else z}

    def call(self, component: Any, inputs: Any) -> Any:
        z = inputs["z"]
        return component(z, len(z)) if "frames" in getattr(component, "asks", ()) else component(z)

    def check(self) -> None:
        decoder, z = self.subject.build(), self.inputs()["z"].requires_grad_()
        out = self.call(decoder, {"z": z})
        finite_samples(self.subject, out, z, "images")
        check_factor(self.subject, decoder, out, z)
        last = getattr(decoder, "last_layer", None)
        self.subject.expect(
            last is None or any(last is parameter for parameter in decoder.parameters()),
            "its last_layer, if it has one, is one of its parameters",
            describe(last),
            "give the weight of the last layer itself, as a property",
        )
        gradients_pass(self.subject, decoder, out, z)


def check_factor(subject: Subject, half: nn.Module, image: Tensor, latent: Tensor) -> None:
    factor = getattr(half, "factor", None)
    sides = [side // int(factor or 1) for side in image.shape[-2:]]
    subject.expect(
        factor is None or sides == list(latent.shape[-2:]),
        "its factor, if it has one, is that of the sizes of image and latent",
        f"{factor} for {tuple(image.shape[-2:])} and {tuple(latent.shape[-2:])}",
        "give the pixels per side of a latent's cell",
    )


class DiscriminatorContract(ImageContract):
    """Images in, logits out, one channel of them."""

    def check(self) -> None:
        discriminator, x = self.subject.build(), self.inputs()["x"].requires_grad_()
        out = discriminator(x)
        finite_samples(self.subject, out, x, "logits")
        self.subject.expect(out.shape[1] == 1, "its logits are one number per patch", describe(out), "give one channel")
        gradients_pass(self.subject, discriminator, out, x)


class FeatureNetworkContract(ImageContract):
    """Images in, a list of features out, of each image alone."""

    def call(self, component: Any, inputs: Any) -> Any:
        return list(component(inputs["x"]))

    def check(self) -> None:
        network, x = self.subject.build().eval(), self.inputs()["x"].requires_grad_()
        features = network(x)
        self.subject.expect(
            isinstance(features, (list, tuple)) and len(features) > 0,
            "it gives a list of features",
            describe(features),
            "return a list of tensors, one per depth",
        )
        alone = network(self.given["x"][:1])
        for of_all, of_one in zip(features, alone, strict=True):
            finite_samples(self.subject, of_all, x, "features")
            promise = "the features of an image do not depend on the others in the batch"
            advice = "normalize over an image, not over a batch"
            independent(self.subject, promise, of_one, of_all[:1], 1e-4, advice)
            of_all.float().square().mean().backward(retain_graph=True)
        gradients_arrive(self.subject, x)
