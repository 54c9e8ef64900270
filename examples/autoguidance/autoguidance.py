"""Autoguidance on two classes of points in the plane, after the toy of Karras et al. 2024, arXiv:2406.02507.

    python examples/autoguidance/autoguidance.py                    # prints the table
    python examples/autoguidance/autoguidance.py --out toy.png      # and draws the picture

Each class is a tree of thin branches, a mixture of Gaussians, so that the density of a sample is known. Two small
networks learn it, the worse one with fewer channels and in fewer steps. Where both are wrong, the worse one is more so,
and the difference of the two leads back to the branches. The difference to the network without a class leads away from
the other class instead, and out of the branches next to it. Takes half a minute of one CPU core.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn

import sgm_core as sgm
from sgm_core.conditioning import Conditioning
from sgm_core.roles import Denoise, Guider

SIGMA_DATA = 0.5
SCALE = 2.0
NONE = {"use": "identity"}


class Tree(NamedTuple):
    """One class: a mixture of equal weights.

    Attributes:
        means: (n, 2), the middles of pieces of branches.
        axes: (n, 2, 2), the rows of one are the directions of a piece, times the deviations along them.
    """

    means: Tensor
    axes: Tensor

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """(n, 2)."""
        piece = torch.randint(len(self.means), (n,), generator=generator)
        return self.means[piece] + (torch.randn(n, 1, 2, generator=generator) @ self.axes[piece])[:, 0]

    def _distances(self, x: Tensor) -> Tensor:
        """Squared, in deviations of each piece, (b, n)."""
        offsets = (x[:, None] - self.means)[:, :, None] @ torch.linalg.inv(self.axes)
        return offsets.square().sum(dim=(2, 3))

    def log_density(self, x: Tensor) -> Tensor:
        """(b, 2) -> (b,)."""
        areas = torch.linalg.det(self.axes).abs() * 2 * math.pi
        return torch.logsumexp(-self._distances(x) / 2 - areas.log(), dim=1) - math.log(len(self.means))

    def nearest(self, x: Tensor) -> Tensor:
        """The piece that each point most likely belongs to, (b,)."""
        return self._distances(x).argmin(dim=1)


def tree(side: float, depth: int = 4) -> Tree:
    """A trunk to the left or the right, each branch of which has two thinner ones."""
    means, axes = [], []

    def grow(x: float, y: float, angle: float, length: float, left: int) -> None:
        dx, dy = math.cos(angle), math.sin(angle)
        for share in (0.25, 0.75):
            means.append([x + share * length * dx, y + share * length * dy])
            along, across = 0.2 * length, 0.05 * length
            axes.append([[along * dx, along * dy], [-across * dy, across * dx]])
        if left > 1:
            for turn in (-0.6, 0.5):
                grow(x + length * dx, y + length * dy, angle + turn, 0.72 * length, left - 1)

    grow(0.1 * side, -0.55, math.pi / 2 - 0.55 * side, 0.42, depth)
    return Tree(torch.tensor(means), torch.tensor(axes))


CLASSES = [tree(-1.0), tree(1.0)]


class Plane(nn.Module):
    """A network of points: F(x; timesteps, y), y (b, 3) one of two classes or none."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.frequencies = nn.Buffer(2.0 ** torch.arange(0, 3))
        layers: list[nn.Module] = []
        for i in range(4):
            layers += [nn.Linear(2 + 18 + 3 if i == 0 else width, width), nn.SiLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(width, 2))

    def forward(self, x: Tensor, timesteps: Tensor, y: Tensor) -> Tensor:
        phase = torch.cat([x, timesteps[:, None]], dim=1)[:, :, None] * self.frequencies
        output: Tensor = self.layers(torch.cat([x, phase.sin().flatten(1), phase.cos().flatten(1), y], dim=1))
        return output


def condition(classes: Tensor) -> Conditioning:
    """Class 0 or 1, or 2 for none."""
    return Conditioning(vector=nn.functional.one_hot(classes, 3).float())


def trained(width: int, steps: int, seed: int = 0) -> Denoise:
    """D(x, sigma, cond) of a network that has learned both classes, and to do without."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    network = Plane(width)
    denoiser = sgm.build("denoisers", {"use": "continuous", "scaling": {"use": "edm", "sigma_data": SIGMA_DATA}})
    loss_fn = sgm.build(
        "losses",
        {
            "use": "standard",
            "sigma_sampler": {"use": "edm", "p_mean": -2.0, "p_std": 1.6},
            "weighting": {"use": "edm", "sigma_data": SIGMA_DATA},
        },
    )

    def preconditioned(x: Tensor, c_noise: Tensor, cond: Conditioning) -> Tensor:
        output: Tensor = network(x, c_noise, cond.vector)
        return output

    denoise: Denoise = partial(denoiser, preconditioned)
    n = 1024
    data = torch.stack([one.sample(2**15, generator) for one in CLASSES])
    optimizer = torch.optim.Adam(network.parameters(), lr=4e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        classes = torch.randint(2, (n,), generator=generator)
        x = data[classes, torch.randint(data.shape[1], (n,), generator=generator)]
        dropped = torch.rand(n, generator=generator) < 0.2
        loss = loss_fn(denoise, x, condition(classes.masked_fill(dropped, 2)), generator=generator).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    network.requires_grad_(False)
    return denoise


def drawn(denoise: Denoise, guider: Guider | Mapping[str, object], n: int, seed: int = 1) -> Tensor:
    """n points of class 0, (n, 2)."""
    sampler = sgm.build(
        "samplers",
        {
            "use": "heun_edm",
            "num_steps": 24,
            "discretization": {"use": "edm", "sigma_min": 0.002, "sigma_max": 5.0},
            "guider": guider,
        },
    )
    noise = torch.randn(n, 2, generator=torch.Generator().manual_seed(seed))
    points: Tensor = sampler(denoise, noise, condition(torch.zeros(n).long()), condition(torch.full((n,), 2)))
    return points


class Quality(NamedTuple):
    """How a set of points compares with its class.

    Attributes:
        outliers: the share where the density is lower than at 99.9 % of the data.
        variety: 1 less the share of points that would have to move to another branch to fill all as the data do.
    """

    outliers: float
    variety: float


def quality(points: Tensor, of: Tree) -> Quality:
    data = of.sample(2**15, torch.Generator().manual_seed(2))
    lowest = of.log_density(data).quantile(0.001)
    share = torch.bincount(of.nearest(points), minlength=len(of.means)) / len(points)
    usual = torch.bincount(of.nearest(data), minlength=len(of.means)) / len(data)
    return Quality((of.log_density(points) < lowest).float().mean().item(), 1 - (share - usual).abs().sum().item() / 2)


def samples(n: int, steps: int) -> dict[str, Tensor]:
    """Points of class 0: of the data, of the network, and with each kind of guidance."""
    good, worse = trained(96, steps), trained(48, steps // 8)
    return {
        "data": CLASSES[0].sample(n, torch.Generator().manual_seed(3)),
        "no guidance": drawn(good, NONE, n),
        "classifier-free guidance": drawn(good, {"use": "cfg", "scale": SCALE}, n),
        "autoguidance": drawn(good, {"use": "autoguidance", "scale": SCALE, "model": worse}, n),
    }


def picture(panels: Mapping[str, Tensor], size: int = 260) -> Image.Image:
    """The points of each panel, side by side, over the class."""
    whole = Image.new("L", (size * len(panels), size), 255)
    side = torch.linspace(-1, 1, size) * 0.95
    grid = torch.stack(torch.meshgrid(side, -side, indexing="xy"), dim=-1).reshape(-1, 2) + torch.tensor([-0.55, 0.2])
    where = (CLASSES[0].log_density(grid) > -1.5).view(size, size)
    for i, points in enumerate(panels.values()):
        panel = torch.where(where, 215, 255)
        column, row = ((points - torch.tensor([-0.55, 0.2])) / 0.95 * torch.tensor([1, -1]) + 1).mul(size / 2).long().T
        inside = (column >= 0) & (column < size) & (row >= 0) & (row < size)
        panel[row[inside], column[inside]] = 0
        whole.paste(Image.fromarray(panel.to(torch.uint8).numpy()), (i * size, 0))
    return whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="draw the picture there, e.g. toy.png")
    parser.add_argument("--steps", type=int, default=3000, help="of the training (default 3000)")
    options = parser.parse_args()
    torch.set_num_threads(1)  # networks this small are slower with more
    panels = samples(4000, options.steps)
    print(f"{'':26}outliers  variety")
    for name, points in panels.items():
        found = quality(points, CLASSES[0])
        print(f"{name:26}{found.outliers:7.1%}  {found.variety:7.1%}")
    if options.out is not None:
        picture(panels).save(options.out, optimize=True)


if __name__ == "__main__":
    main()
