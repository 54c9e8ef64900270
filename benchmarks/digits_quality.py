"""Does a model trained on digits draw what it is asked for, and not its training images?

    python benchmarks/digits_quality.py                         # trains configs/digits.yaml first
    python benchmarks/digits_quality.py runs/NAME               # a run that is there
    python benchmarks/digits_quality.py --config latent_digits  # trains that, and the autoencoder that it needs

The judge is a classifier trained on the images that the diffusion model did not see. Memorising would show in the
distance of a sample to the nearest training image, beside that of real images which the model did not see either.

Of an autoencoder, and of the first stage of a latent model, it says how well held-out images are reconstructed.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import sgm_core as sgm

N_SAMPLES = 500
RECOGNISED, RECOGNISED_LATENT = 0.95, 0.90
"""The share wanted of samples of pixels and of reconstructions, and of samples of latents."""


def classifier() -> nn.Module:
    """A small convolutional network for 8x8 images."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Dropout(0.4), nn.Linear(256, 10),
    )  # fmt: skip


def shifted(images: Tensor) -> Tensor:
    """Each batch moved by up to one pixel, the empty edge black."""
    dy, dx = torch.randint(-1, 2, (2,)).tolist()
    padded = nn.functional.pad(images, (1, 1, 1, 1), value=-1.0)
    return padded[..., 1 + dy : 9 + dy, 1 + dx : 9 + dx]


def train_classifier(images: Tensor, labels: Tensor, steps: int = 600) -> nn.Module:
    torch.manual_seed(0)
    model = classifier()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for _ in range(steps):
        rows = torch.randint(len(images), (64,))
        loss = nn.functional.cross_entropy(model(shifted(images[rows])), labels[rows], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    return (model(images).argmax(1) == labels).float().mean().item()


def nearest(images: Tensor, others: Tensor) -> Tensor:
    """The Euclidean distance of each image to the nearest of the others."""
    return torch.cdist(images.flatten(1), others.flatten(1)).min(dim=1).values


def train_run(config: str = "digits") -> Path:
    """A new run of a shipped config; of `latent_digits` after one of the autoencoder, whose weights it takes."""
    from sgm_core.runs.run import start_run

    weights = []
    if config == "latent_digits":
        weights = [f"model.first_stage.weights={train_run('autoencoder_digits')}"]
    name = f"{config.replace('_', '-')}-quality-{time.strftime('%Y%m%d-%H%M%S')}"
    run = start_run(sgm.load_config(config, overrides=weights), Path("runs"), name)
    start = time.perf_counter()
    run.train()
    print(f"training {config}: {time.perf_counter() - start:.0f} s on {torch.get_num_threads()} threads")
    return run.folder


@torch.no_grad()
def report_reconstruction(engine: Any, judge: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Print how held-out images come back; the share of them that the judge recognises afterwards."""
    stage = engine.first_stage_model
    torch.manual_seed(0)
    with engine.ema_scope():  # does nothing where the first stage is not what was averaged
        y = stage.decode(stage.encode(images)).clamp(-1, 1)
    error = (y - images).abs().mean().item()
    psnr = 10 * ((2**2) / (y - images).square().mean()).log10().item()
    recognised = accuracy(judge, y, labels)
    print(f"reconstructions of {len(images)} held-out images: mean absolute error {error:.4f} of a range of 2, "
          f"PSNR {psnr:.1f} dB; the judge recognises {recognised:.1%}")  # fmt: skip
    return recognised


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path, help="a run folder (default: train a config now)")
    parser.add_argument("--config", default="digits", help="what to train (default: digits)")
    options = parser.parse_args()
    folder = options.run or train_run(options.config)

    engine = sgm.load_engine(folder)
    seen, unseen = sgm.load_config(folder / "config.yaml").build("data").parts
    (x_seen, y_seen), (x_unseen, y_unseen) = ((part.images, part.labels) for part in (seen, unseen))

    if not hasattr(engine, "generate"):  # an autoencoder
        judge = train_classifier(x_seen, y_seen)
        print(f"model: {folder}; trained on {len(x_seen)} images, and so is the judge")
        print(f"the judge recognises {accuracy(judge, x_unseen, y_unseen):.1%} of the held-out images themselves")
        return 0 if report_reconstruction(engine, judge, x_unseen, y_unseen) >= RECOGNISED else 1

    judge = train_classifier(x_unseen, y_unseen)
    labels = torch.arange(N_SAMPLES) % 10
    start = time.perf_counter()
    samples = engine.generate({"cls": labels}, seed=0)
    seconds = time.perf_counter() - start

    recognised = accuracy(judge, samples, labels)
    of_samples, of_real = nearest(samples, x_seen), nearest(x_unseen, x_seen)
    copies = (of_samples < of_real.quantile(0.01)).float().mean().item()
    print(f"model: {folder}; trained on {len(x_seen)} images, judge on the other {len(x_unseen)}")
    print(f"the judge recognises {accuracy(judge, x_seen, y_seen):.1%} of the real images that it has not seen")
    latent = any(True for _ in engine.first_stage_model.parameters())
    wanted = RECOGNISED_LATENT if latent else RECOGNISED
    if latent:
        report_reconstruction(engine, train_classifier(x_seen, y_seen), x_unseen, y_unseen)
    print(f"recognised as the class asked for: {recognised:.1%} of {N_SAMPLES} samples (wanted: {wanted:.0%})")
    per_class = [accuracy(judge, samples[labels == c], labels[labels == c]) for c in range(10)]
    print("  by class: " + "  ".join(f"{c}: {share:.0%}" for c, share in enumerate(per_class)))
    print("distance to the nearest training image, median (5 % to 95 %):")
    for name, distances in (("samples", of_samples), ("held-out real images", of_real)):
        low, middle, high = (distances.quantile(q).item() for q in (0.05, 0.5, 0.95))
        print(f"  {name:22} {middle:.2f} ({low:.2f} to {high:.2f})")
    print(f"  ratio of the medians   {(of_samples.median() / of_real.median()).item():.2f}")
    print(f"  samples nearer than all but 1 % of the held-out images: {copies:.1%}")
    print(f"sampling: {seconds:.1f} s for {N_SAMPLES} images")
    return 0 if recognised >= wanted else 1


if __name__ == "__main__":
    sys.exit(main())
