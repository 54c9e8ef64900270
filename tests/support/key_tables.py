"""The keys and shapes of public checkpoints, in `tests/keys`, and the engines of their configs without weights."""

import gzip
import json
from functools import cache
from pathlib import Path

import torch

import sgm_core as sgm

KEYS = Path(__file__).parents[1] / "keys"
PARTS = ("network", "first_stage", "conditioner", "denoiser")
TABLES = sorted(path.name.partition(".")[0] for path in KEYS.glob("*.json.gz"))


@cache
def engine(name: str):
    """The engine of a shipped config, on the meta device."""
    with torch.device("meta"):
        return sgm.build_engine(sgm.load_config(name))


def table(name: str) -> dict[str, dict[str, list[int]]]:
    """Shapes by part and key."""
    with gzip.open(KEYS / f"{name}.json.gz") as file:
        return json.load(file)


def shapes_of(name: str) -> dict[str, list[int]]:
    """Shapes by key, of all parts."""
    tables = table(name)
    return {key: shape for part in PARTS for key, shape in tables[part].items()}
