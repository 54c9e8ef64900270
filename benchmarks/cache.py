"""What caching a frozen encoder saves, in time per step, and that the losses are the same.

    python benchmarks/cache.py                   # a transformer of the size of MiniLM, on the CPU
    python benchmarks/cache.py --depth 24 --width 1024 --device cuda

The digits' U-Net attends to the 64 tokens that a frozen transformer (6 layers, 384 wide, as all-MiniLM-L6) makes of
each image. Both sides run in turns in this process, a few steps each; the first turn of each is left out.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

import sgm_core as sgm
from sgm_core.config.api import config_from
from sgm_core.runs.run import quiet_libraries
from sgm_plugins.cached.fill import fill


@sgm.register("embedders", "pixel_transformer")
class PixelTransformer(nn.Module):
    """(b, 1, 8, 8) -> (b, 64, width), a token for each pixel.

    Args:
        width: of a token; a head has 32.
        depth: layers.
    """

    def __init__(self, width: int = 384, depth: int = 6) -> None:
        super().__init__()
        self.embed = nn.Linear(1, width)
        self.place = nn.Parameter(torch.randn(64, width))
        layer = nn.TransformerEncoderLayer(width, width // 32, 4 * width, batch_first=True, activation="gelu")
        self.layers = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)

    def forward(self, image: Tensor) -> Tensor:
        tokens: Tensor = self.layers(self.embed(image.flatten(1)[..., None]) + self.place)  # (b, 64, width)
        return tokens


def config(options: argparse.Namespace, cache: bool, folder: Path) -> Any:
    encoder = {"use": "pixel_transformer", "width": options.width, "depth": options.depth}
    slots = [{"input_key": "image", "cache": cache, "ucg_rate": 0.1, "embedder": encoder}]
    overrides = [
        "model.network.attention_resolutions=[2]",
        "model.network.num_head_channels=16",
        f"model.network.context_dim={options.width}",
        "model.network.num_classes=null",
        "model.network.adm_in_channels=null",
        f"trainer.accelerator={'gpu' if options.device == 'cuda' else options.device}",
        "trainer.devices=1",
        f"cache.dir={folder}",
    ]
    plain = sgm.load_config("digits", overrides=overrides).to_dict()
    plain["model"]["conditioner"]["embedders"] = slots
    return plain


class Watch(L.Callback):
    """The seconds and the loss of each step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.losses: list[Tensor] = []
        self.last = 0.0

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.seconds.append(now - self.last)
        self.last = now
        self.losses.append(outputs["loss"].detach().cpu())


def train(plain: dict[str, Any], steps: int) -> Watch:
    """Build and train; the first step, with all that is built in it, has no time."""
    L.seed_everything(0, verbose=False)
    checked = config_from(plain)
    data, engine, watch = checked.build("data"), sgm.build_engine(checked), Watch()
    trainer = checked.build("trainer")(
        max_steps=steps, logger=False, callbacks=[watch], enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(engine, data)
    del watch.seconds[0]
    return watch


def difference(some: list[torch.Tensor], others: list[torch.Tensor]) -> float:
    """The largest, relative."""
    a, b = torch.stack(some), torch.stack(others)
    return float(((a - b).abs() / a.abs()).max())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--steps", type=int, default=12, help="of a turn")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    options = parser.parse_args()
    quiet_libraries()
    with tempfile.TemporaryDirectory() as folder:
        without, cached = (config(options, cache, Path(folder)) for cache in (False, True))
        filled, seconds = fill(config_from(cached))
        part = filled[0]
        times: dict[str, list[float]] = {"without": [], "with": []}
        for turn in range(options.turns + 1):
            a, b = train(without, options.steps), train(cached, options.steps)
            apart = difference(a.losses, b.losses)
            if apart and options.device == "cpu":
                print("the losses differ")
                return 1
            if apart:  # a GPU does not give the same bits twice
                again = difference(a.losses, train(without, options.steps).losses)
                print(f"losses with and without the cache differ by {apart:.1e}, two runs without it by {again:.1e}")
            if turn:
                times["without"] += a.seconds
                times["with"] += b.seconds
    median = {name: statistics.median(several) for name, several in times.items()}
    best = {name: min(several) for name, several in times.items()}
    parameters = sum(p.numel() for p in PixelTransformer(options.width, options.depth).parameters())
    print(f"torch {torch.__version__}, {options.device}, {torch.get_num_threads()} threads; batches of 64")
    print(f"encoder: {parameters / 1e6:.1f} M parameters, frozen; losses of {options.steps} steps equal bit for bit")
    print(f"sgm cache: {part.entries} entries, {part.bytes / 1e6:.0f} MB, {seconds:.1f} s")
    for name, several in times.items():
        low, middle, high = (1e3 * part for part in statistics.quantiles(several, n=4))
        print(
            f"{name:8} the cache: {middle:8.1f} ms a step "
            f"(quartiles {low:.1f} and {high:.1f}, least {1e3 * min(several):.1f})"
        )
    print(
        f"ratio: {median['without'] / median['with']:.1f} of medians, {best['without'] / best['with']:.1f} of the least"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
