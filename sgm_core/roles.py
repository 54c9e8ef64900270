"""The roles: what each kind of component is called with and what it gives back.

A constructor that asks for one of these types receives a built component: `scaling: Scaling` is looked up in
the registry's `scalings`. Roles that torch or Lightning already define are used as they are.

Shapes: b samples, c channels, `*grid` the rest (height and width, say). Images are in [-1, 1]; sigma is the
standard deviation of the noise in units of the data, (b,), and x = x0 + sigma * noise. At sigma = inf, pure noise,
the state is the limit of x / sigma: the noise itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from sgm_core.conditioning import Conditioning
from sgm_core.randomness import Generators, randn_like

if TYPE_CHECKING:
    from pathlib import Path

    from lightning.pytorch import Callback as Callback
    from lightning.pytorch import LightningDataModule as DataModule  # noqa: F401
    from lightning.pytorch import LightningModule as Engine  # noqa: F401
    from lightning.pytorch.loggers import Logger as Logger
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

LIGHTNING = {
    "Callback": "lightning.pytorch:Callback",
    "DataModule": "lightning.pytorch:LightningDataModule",
    "Engine": "lightning.pytorch:LightningModule",
    "Logger": "lightning.pytorch.loggers:Logger",
}
"""The roles that are Lightning's own classes, imported when first asked for: a formula needs torch alone."""


def __getattr__(name: str) -> Any:
    if name not in LIGHTNING:
        raise AttributeError(f"module 'sgm_core.roles' has no attribute '{name}'")
    globals()[name] = role = resolve_name(LIGHTNING[name])
    return role


Preconditioned = Callable[[Tensor, Tensor, Conditioning], Tensor]
"""F(c_in * x, c_noise, cond): the network as the denoiser calls it."""


class Denoise(Protocol):
    """D(x; sigma, cond) -> an estimate of x0. What losses, guiders and samplers call."""

    def __call__(self, x: Tensor, sigma: Tensor, cond: Conditioning) -> Tensor: ...


@runtime_checkable
class Network(Protocol):
    """The backbone, any `nn.Module` with this call.

    x is (b, c, *grid), already scaled by c_in and joined with `concat`; timesteps is c_noise, (b,); context is
    (b, tokens, d); y is (b, d). Extras of the conditioning arrive as further keyword arguments. Gives (b, c, *grid).
    Four extras have a fixed meaning. A network that takes one has it as a parameter:

    - `next_timesteps` (b,): c_noise of the level that a step of a flow map goes to; denoisers make it of `next_sigma`;
    - `token_timesteps` (b, tokens): c_noise of each token, where tokens differ (clean references, first frames);
    - `perturb`, {"mode": "pag" | "slg" | "seg", "layers": [...]}: attention that is weakened there on purpose;
    - `taps`, a dict whose keys name blocks: the network puts the output of each there, (b, tokens, d).

    With a static method `shapes`, see `sgm_core.shapes`, a config that gives it other widths is refused with its lines.
    With a class attribute `compile_regions = (Block, ...)`, the types of the blocks that it repeats, `compile: true`
    compiles these rather than the whole, see `sgm_core.training.compiling`.
    """

    def __call__(
        self, x: Tensor, timesteps: Tensor, context: Tensor | None = None, y: Tensor | None = None
    ) -> Tensor: ...


class Coefficients(NamedTuple):
    """Preconditioning at sigma: D(x; sigma) = c_skip * x + c_out * F(c_in * x; c_noise). Each (b,)."""

    c_skip: Tensor
    c_out: Tensor
    c_in: Tensor
    c_noise: Tensor


class Scaling(ABC):
    """sigma (b,) -> the coefficients of the preconditioning."""

    log_c_noise: ClassVar[bool] = False
    """c_noise is a logarithm of sigma, not sigma: there is no timestep of a table that stands for it."""

    @abstractmethod
    def __call__(self, sigma: Tensor) -> Coefficients: ...

    def at_infinity(self) -> tuple[float, float, float, float] | None:
        """The limits of c_skip sigma, c_out, c_in sigma and c_noise, which hold for x / sigma. None if one of the first
        three is infinite; an infinite c_noise leaves the level to denoisers that tell the network an index."""
        return None


class Denoiser(nn.Module, ABC):
    """Turns a network into D(x; sigma)."""

    takes_infinity: bool = False
    """Whether sigma may be infinite."""

    @abstractmethod
    def forward(self, network: Preconditioned, x: Tensor, sigma: Tensor, cond: Conditioning) -> Tensor:
        """x (b, c, *grid) with noise of level sigma (b,) -> the estimate of x0, like x."""


class Discretization(ABC):
    """A grid of noise levels."""

    num_timesteps: int | None = None
    """How many levels there are; None for any number."""

    needs_shape: bool = False
    """There are no levels before `for_shape`."""

    @abstractmethod
    def sigmas(self, n: int) -> Tensor:
        """n positive sigmas, descending, float32 on the CPU. The first one may be infinite."""

    def for_shape(self, shape: Sequence[int]) -> Discretization:
        """The levels for samples (b, c, *grid): itself, unless they depend on the size."""
        return self

    def __call__(self, n: int) -> Tensor:
        """The schedule of an n-step sampler: the n sigmas and the final zero, (n + 1,)."""
        sigmas = self.sigmas(n)
        return torch.cat([sigmas, sigmas.new_zeros(1)])


class Guider(ABC):
    """Combines several evaluations of the denoiser into a guided one."""

    @abstractmethod
    def __call__(self, denoise: Denoise, x: Tensor, sigma: Tensor, cond: Conditioning, uncond: Conditioning) -> Tensor:
        """The guided estimate of x0, like x. Where both halves run in one batch, the order is [uncond; cond]."""

    def at(self, sigma: float) -> Guider:
        """Who guides at this noise level: itself, unless guidance depends on the level. A sampler asks before each
        evaluation, with a number of the host, so that nothing waits for the device."""
        return self

    def for_schedule(self, sigmas: Sequence[float]) -> Guider:
        """Who guides a sample with these levels, the final 0 included: itself, unless it counts steps or remembers."""
        return self


class Sampler(ABC):
    """Integrates from noise to a sample.

    Args:
        discretization: the noise levels, one schedule for the whole batch.
        num_steps: steps unless the call says otherwise. ValueError if the discretization has fewer levels.
        guider: none means the plain denoiser.

    Raises:
        ValueError: more steps than the discretization has levels, or levels that do not fall.
    """

    def __init__(
        self, discretization: Discretization, num_steps: int | None = None, guider: Guider | None = None
    ) -> None:
        levels = discretization.num_timesteps
        if num_steps is not None and levels is not None and num_steps > levels:
            raise ValueError(f"num_steps is {num_steps}, and the discretization has {levels} levels (num_timesteps)")
        if num_steps and not discretization.needs_shape:
            _falling(discretization(num_steps))
        self.discretization = discretization
        self.num_steps = num_steps
        self.guider = guider

    def __call__(
        self,
        denoise: Denoise,
        noise: Tensor,
        cond: Conditioning,
        uncond: Conditioning | None = None,
        *,
        num_steps: int | None = None,
        generator: Generators = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """Sample x0, like `noise`. Errors are those of `schedule`.

        Args:
            denoise: D(x; sigma, cond).
            noise: (b, c, *grid), of unit variance; left as it is.
            cond, uncond: what guidance moves towards and away from; `uncond` defaults to `cond`.
            num_steps: overrides the constructor's.
            generator: source of the noise that stochastic samplers add; one, or one per sample.
            progress: called as progress(step, steps) after each step, of as many as the schedule has: a part of a
                schedule (image to image) has fewer than `num_steps`.
        """
        first = self.schedule(num_steps, noise.shape)[0]
        # the deviation of noised data of unit variance; some processors' float32 roots are off by a last digit
        x = noise * (1.0 if first.isinf() else (1.0 + first**2).double().sqrt().float().item())
        return self.solve(denoise, x, cond, uncond, num_steps=num_steps, generator=generator, progress=progress)

    def schedule(self, num_steps: int | None = None, shape: Sequence[int] | None = None) -> Tensor:
        """The levels of samples (b, c, *grid): where they begin, and one more for each step; the last is 0 unless a
        part is left out. ValueError if the number of steps is not given or below 1, or a level not below the last."""
        num_steps = self.num_steps if num_steps is None else num_steps
        if num_steps is None or num_steps < 1:
            raise ValueError(f"num_steps is {num_steps}; a sampler needs at least 1 step")
        return _falling((self.discretization if shape is None else self.discretization.for_shape(shape))(num_steps))

    def solve(
        self,
        denoise: Denoise,
        x: Tensor,
        cond: Conditioning,
        uncond: Conditioning | None = None,
        *,
        num_steps: int | None = None,
        generator: Generators = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """Sample from x, which has noise of the schedule's first level. The rest is as in `__call__`."""
        schedule = self.schedule(num_steps, x.shape)
        sigmas = schedule.tolist()
        guides = None if self.guider is None else self.guider.for_schedule(sigmas)
        precise = torch.promote_types(x.dtype, torch.float32)  # bfloat16 would round a level to its neighbour
        # (b,) for each level, all in one copy; a step makes no tensor but for a level between two of the schedule
        rows = schedule[:, None].repeat(1, len(x)).to(x.device, precise, non_blocking=True)
        levels = dict(zip(sigmas, rows.unbind(), strict=True))

        def D(x: Tensor, sigma: float) -> Tensor:
            level = levels.get(sigma)
            if level is None or len(level) != len(x):
                level = torch.full((len(x),), sigma, dtype=precise, device=x.device)
            guider = None if guides is None else guides.at(sigma)
            estimate = denoise(x, level, cond) if guider is None else guider(denoise, x, level, cond, uncond or cond)
            return estimate if estimate.dtype == x.dtype else estimate.to(x.dtype)

        def report(step: int) -> None:
            if progress is not None:
                progress(step + 1, len(sigmas) - 1)

        with torch.no_grad():
            return self.integrate(D, x, sigmas, lambda: randn_like(x, generator), report)

    @abstractmethod
    def integrate(
        self,
        D: Callable[[Tensor, float], Tensor],
        x: Tensor,
        sigmas: list[float],
        noise: Callable[[], Tensor],
        report: Callable[[int], None],
    ) -> Tensor:
        """The loop, as the paper writes it: D(x, sigma) is the guided denoiser, sigmas ends with 0, `noise()` draws
        standard normal noise like x, `report(i)` ends step i. Plain floats, so that no step waits for the device."""


def _falling(levels: Tensor) -> Tensor:
    """The levels of a schedule. ValueError if one is not below the one before."""
    if levels.is_meta or bool((levels.diff() < 0).all()):
        return levels
    a, b = next((a, b) for a, b in pairwise(levels.tolist()) if not b < a)
    raise ValueError(f"noise levels have to fall from step to step, and {b:g} follows {a:g}")


class SigmaSampler(ABC):
    """Draws training noise levels."""

    needs_shape: bool = False
    """There are no levels before `for_shape`."""

    @abstractmethod
    def __call__(
        self,
        n: int,
        *,
        rand: Tensor | None = None,
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """n sigmas, (n,) float32. `rand` (n,) replaces the draw, in the form this sampler draws it."""

    def quantile(self, u: Tensor) -> Tensor:
        """The sigmas below which the shares u, 0 to 1, of all draws lie; like u. ValueError if it has none."""
        raise ValueError(f"{type(self).__name__} has no method `quantile`: its levels cannot be stratified or clamped")

    def for_shape(self, shape: Sequence[int]) -> SigmaSampler:
        """p(sigma) for samples (b, c, *grid): itself, unless it depends on the size."""
        return self


class Weighting(ABC):
    """sigma -> the weight of its loss, the same shape."""

    @abstractmethod
    def __call__(self, sigma: Tensor) -> Tensor: ...


class Loss(nn.Module, ABC):
    """The training objective.

    Attributes:
        sigma_sampler: p(sigma). A loss that has one can be told its noise levels, `sigma` of `forward`; validation then
            compares the same levels each time, and what is logged is told apart by level. A loss without may leave
            `sigma` out: it draws in validation as in training.
        input_keys: entries of the batch that `forward` is given, as one more argument, `batch`; often none.
    """

    sigma_sampler: SigmaSampler | None = None
    input_keys: tuple[str, ...] = ()

    @abstractmethod
    def forward(
        self,
        denoise: Denoise,
        x: Tensor,
        cond: Conditioning,
        generator: Generators = None,
        sigma: Tensor | None = None,
    ) -> Tensor:
        """Clean x (b, c, *grid) -> one loss per sample, (b,). Draws sigma, then the noise.

        Args:
            denoise: D(x; sigma, cond), to be called with x + sigma * noise.
            x: left as it is.
            cond: handed on.
            generator: source of what is drawn; one per sample only comes with `sigma`.
            sigma: the noise levels, (b,) float32, in place of the draw.
        """


class FirstStage(nn.Module, ABC):
    """Image <-> latent."""

    takes_timesteps: ClassVar[bool] = False
    """A temporal decoder: `decode` is told how many frames the chunk holds, as `timesteps`."""

    @abstractmethod
    def encode(self, x: Tensor) -> Tensor:
        """Images (b, c, h, w) in [-1, 1] -> latents."""

    @abstractmethod
    def decode(self, z: Tensor, **kwargs: Any) -> Tensor:
        """Latents -> images in [-1, 1]."""


class Regularizer(nn.Module, ABC):
    """Keeps latents in shape."""

    @abstractmethod
    def forward(self, z: Tensor) -> tuple[Tensor, dict[str, Any]]:
        """Raw latents -> the latents to decode and a log of losses and statistics."""


@runtime_checkable
class Encoder(Protocol):
    """Images -> what a regularizer makes latents of: any `nn.Module` with this call, (b, c, h, w) in [-1, 1] -> (b, c',
    h', w'). To be used in tiles it has an attribute `factor`, h / h'."""

    def __call__(self, x: Tensor) -> Tensor: ...


@runtime_checkable
class Decoder(Protocol):
    """Latents -> images: any `nn.Module` with this call, (b, z, h', w') -> (b, c, h, w). One whose class says `asks =
    ("frames",)` mixes the frames of a clip: it is called with latents (clips * frames, z, h', w'), frames fastest, and
    the number of frames. To be used in tiles it has an attribute `factor`, h / h'; to be trained against a
    discriminator `last_layer`, its last weight."""

    def __call__(self, z: Tensor) -> Tensor: ...


@runtime_checkable
class Discriminator(Protocol):
    """How real images look, high for real ones: any `nn.Module` with this call, (b, c, *grid) in [-1, 1] -> logits (b,
    1, *patches)."""

    def __call__(self, x: Tensor) -> Tensor: ...


@runtime_checkable
class FeatureNetwork(Protocol):
    """What a perceptual distance compares of images: any `nn.Module` with this call, (b, c, h, w) in [-1, 1] ->
    features (b, c_k, h_k, w_k), k = 0, 1, ..."""

    def __call__(self, images: Tensor) -> Sequence[Tensor]: ...


@runtime_checkable
class Embedder(Protocol):
    """Any `nn.Module` that turns the entries of its slot into one tensor or several.

    The rank of a tensor decides where it goes unless the slot says so: (b, d) vector, (b, tokens, d) crossattn,
    (b, c, h, w) concat. It may have a method `check(*entries)` that raises ValueError for entries it cannot embed;
    it runs on the host, before the batch moves to the device. With a static method `shapes`, see `sgm_core.shapes`,
    what it gives is compared with what the network takes before anything is built.
    """

    def __call__(self, *entries: Any) -> Tensor | Sequence[Tensor]: ...


class Slot(Protocol):
    """The place of an embedder in a conditioner; `sgm_core.slots.EmbedderSlot` is one."""

    @property
    def keys(self) -> tuple[str, ...]: ...

    def trains(self, module: nn.Module) -> bool: ...


class Conditioner(nn.Module, ABC):
    """Batch -> conditioning. Never changes the batch.

    Attributes:
        embedders: the modules, set by the conditioner; empty where it has none.
        slots: the place of each embedder, in the same order. Without slots an engine treats no embedder as frozen.
    """

    embedders: nn.ModuleList
    slots: Sequence[Slot] = ()

    @property
    @abstractmethod
    def input_keys(self) -> tuple[str, ...]:
        """The batch entries it reads, in order, each once."""

    @abstractmethod
    def forward(
        self,
        batch: Mapping[str, Any],
        *,
        force_zero: Iterable[str] = (),
        drop: bool = True,
        generator: torch.Generator | None = None,
    ) -> Conditioning:
        """The conditioning of a batch.

        Args:
            batch: b entries per key.
            force_zero: input keys whose embeddings are replaced by zeros.
            drop: whether the slots' drop rates act (training) or not (sampling).
            generator: source of the drops.
        """

    @abstractmethod
    def unconditional(self, batch: Mapping[str, Any]) -> Conditioning:
        """What guidance moves away from for this batch: each slot in the state that its drops leave it in."""

    @abstractmethod
    def check(self, batch: Mapping[str, Any]) -> None:
        """Raise ValueError for a batch it cannot embed, naming the entry; runs on the host."""


class Average(nn.Module, ABC):
    """A running average of trained parameters. Its state dict has keys that cannot collide."""

    num_updates: int
    """How many updates it has taken in; 0 means that it has no history of its own."""

    @property
    @abstractmethod
    def swapped(self) -> bool:
        """Whether the parameters hold the averaged values at present."""

    @abstractmethod
    def track(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Start from the present values of these parameters; called after weights are loaded."""

    @abstractmethod
    def update(self) -> None:
        """Take in the present values. Once per optimizer step."""

    @abstractmethod
    def reset(self) -> None:
        """Start afresh from the present values."""

    @abstractmethod
    def swap(self) -> None:
        """Exchange the averaged and the live values, exactly; a second call exchanges them back."""


class Adapter(ABC):
    """A few new weights that are trained in place of a model's own."""

    @abstractmethod
    def adapt(self, parts: Mapping[str, nn.Module]) -> None:
        """Freeze these parts of a model, and put new weights into them, the only ones that require a gradient. Until
        these are trained, outputs stay as they are. State dicts keep their keys, and gain those of new weights.
        ValueError if there is nothing to adapt.

        Args:
            parts: by the beginning of their names in the model's state dict, without the dot.
        """

    @abstractmethod
    def export(self, folder: Path) -> None:
        """Write the new weights alone, as other programs read them: of the run that ends, into its folder."""


class OptimizerFactory(Protocol):
    """Parameters (or torch parameter groups) -> optimizer. Every `torch.optim` class is one."""

    def __call__(self, params: Any) -> Optimizer: ...


class LRScheduleFactory(Protocol):
    """Optimizer -> schedule that is stepped once per optimizer step."""

    def __call__(self, optimizer: Optimizer) -> LRScheduler: ...
