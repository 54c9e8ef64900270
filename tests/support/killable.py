"""A training that is killed, and what two checkpoints differ in."""

import time
from collections.abc import Callable
from pathlib import Path

import torch
from support.processes import Running


def train_until_killed(start: Callable[..., Running], run: Path, arguments: list[str], step: int, delay: float) -> int:
    """Kill (-9) a training some time after it logged a step. Gives the number of steps that it logged.

    Args:
        start: the fixture `sgm_forked` or `sgm_started`.
        delay: seconds; each test draws its own, so that kills meet all that happens between two steps.
    """
    log = run / "metrics.jsonl"
    before = log.read_text() if log.exists() else ""  # may hold the step already, from an earlier life

    def there() -> bool:
        text = log.read_text() if log.exists() else ""
        return text != before and f'"step": {step},' in text

    running = start(*arguments)
    running.wait_for(there)
    time.sleep(delay)
    assert running.returncode is None, f"it ended by itself: {running.err}"
    running.kill()
    return log.read_text().count("\n")


def differences(a, b, at: str = "") -> list[str]:
    """Where two checkpoints are not the same to the last bit."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        same = a.dtype == b.dtype and torch.equal(a, b)
    elif isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return [found for key in a for found in differences(a[key], b[key], f"{at}/{key}")]
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return [found for i, pair in enumerate(zip(a, b, strict=True)) for found in differences(*pair, f"{at}/{i}")]
    else:
        same = a == b
    return [] if same else [at]
