"""Checkpoints as a bad disk, a kill or an attacker leaves them."""

import os
import random
from collections.abc import Iterator
from pathlib import Path


def rewrite(path: Path, content: bytes) -> None:
    """In place, so that `last.ckpt`, the same file, changes too."""
    with path.open("r+b") as file:
        file.truncate()
        file.write(content)


def flips(path: Path, count: int, seed: int = 0) -> Iterator[int]:
    """The file with a random bit flipped, again and again; gives the bit. In the end the file is as it was."""
    content, draw = path.read_bytes(), random.Random(seed)
    for _ in range(count):
        bit = draw.randrange(8 * len(content))
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        rewrite(path, bytes(changed))
        yield bit
    rewrite(path, content)


BROKEN = {  # how: what becomes of the content, and what is said of it
    "truncated": (lambda content: content[: len(content) // 2], "bytes and was written with"),
    "empty": (lambda content: b"", "it is empty"),
    "garbage": (lambda content: random.Random(1).randbytes(len(content)), "sha256"),
    "flipped": (lambda content: content[:900] + bytes([content[900] ^ 4]) + content[901:], "sha256"),
    "longer": (lambda content: content + b"\0", "bytes and was written with"),
}


class Runs:
    """Pickled, it is a call."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def payloads(marker: Path) -> dict[str, object]:
    return {
        "os.system": Runs(os.system, f"touch {marker}"),
        "eval": Runs(eval, f"open({str(marker)!r}, 'w')"),
        "exec": Runs(exec, f"open({str(marker)!r}, 'w')"),
        "open": Runs(open, str(marker), "w"),
        "nested": {"global_step": 8, "state_dict": {"a": Runs(Path.touch, marker)}},
    }
