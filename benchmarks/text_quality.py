"""Does a model trained on captions draw what a caption says, in wordings that it was trained on and in others?

    python benchmarks/text_quality.py                        # trains configs/digits_text.yaml first
    python benchmarks/text_quality.py runs/NAME --grid FILE  # a run that is there; also writes a picture

The judge is that of digits_quality.py: a classifier trained on the images that the diffusion model did not see.
`configs/digits_text.yaml` needs a plugin: pip install ./examples/sgm-minilm
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from digits_quality import accuracy, train_classifier, train_run
from torch import Tensor, nn

import sgm_core as sgm
from sgm_core.checkpoints.files import read_checkpoint
from sgm_core.config.api import config_from
from sgm_core.pictures.labels import image_grid, save_image
from sgm_plugins.callbacks.drawn_text import draw_text
from sgm_plugins.datamodules.digits_captions import caption

PER_CAPTION = 20
RECOGNISED = 0.90
TILE = 96  # pixels of an image in the grid, a multiple of its 8


def picture(rows: dict[str, Tensor]) -> Tensor:
    """A row for each wording: what it is, then its samples, (n, 3, TILE, TILE)."""
    tiles = []
    for text, samples in rows.items():
        enlarged = nn.functional.interpolate(samples, size=TILE, mode="nearest").expand(-1, 3, -1, -1)
        tiles += [draw_text([text], TILE, TILE), enlarged]
    return torch.cat(tiles)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path, help="a run folder (default: train configs/digits_text.yaml now)")
    parser.add_argument("--grid", type=Path, help="a picture: a row for each wording, the held-out ones last")
    options = parser.parse_args()
    folder = options.run or train_run("digits_text")

    engine = sgm.load_engine(folder)
    provenance = read_checkpoint(folder / "model.safetensors").provenance
    assert provenance is not None
    data = config_from(provenance.config).build("data")
    seen, unseen = data.parts
    judge = train_classifier(unseen.part.images, unseen.part.labels)
    real = accuracy(judge, seen.part.images, seen.part.labels)
    print(f"model: {folder}; the judge recognises {real:.1%} of the real images that it has not seen")

    labels = torch.arange(10).repeat_interleave(PER_CAPTION)
    recognised: dict[bool, list[float]] = {True: [], False: []}  # by whether the wording was seen
    rows: dict[str, Tensor] = {}
    print(f"recognised as the digit of the caption, of {len(labels)} samples (by digit):")
    for i, wording in enumerate((*data.wordings, *data.held_out)):
        known = wording in data.wordings
        captions = [caption(wording, label) for label in labels.tolist()]
        samples = engine.generate({"caption": captions}, seed=1000 * i)
        rows[wording if known else f"(held out) {wording}"] = samples[::PER_CAPTION]
        recognised[known].append(accuracy(judge, samples, labels))
        by_digit = [accuracy(judge, samples[labels == c], labels[labels == c]) for c in range(10)]
        print(
            f"  {'seen    ' if known else 'held out'} {wording:45} {recognised[known][-1]:6.1%}  "
            + " ".join(f"{share:.0%}" for share in by_digit)
        )
    shares = {known: sum(found) / len(found) for known, found in recognised.items() if found}
    for known, share in shares.items():
        print(
            f"{'seen' if known else 'held-out'} wordings: {share:.1%}"
            + (f" (wanted: {RECOGNISED:.0%})" if known else "")
        )
    if options.grid is not None:
        save_image(image_grid(picture(rows), columns=11), options.grid)
    return 0 if shares[True] >= RECOGNISED else 1


if __name__ == "__main__":
    sys.exit(main())
