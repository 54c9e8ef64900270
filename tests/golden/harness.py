"""Golden cases: reading them, comparing with them, and an account of what was compared.

A case is a folder with `case.json` (what it is) and `tensors.safetensors` (inputs and outputs of the reference). Its
`area` names the runner, `areas/AREA.py`, whose `run(case)` rebuilds the outputs. No output can be forgotten: a case
fails unless each of its tensors was used as an input, compared, or left out for a reason in `reference.MISSING`
or `reference.WRONG`.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import torch
from golden.reference import MISSING, WRONG, NotBuiltError
from safetensors.torch import load_file
from torch import Tensor

HERE = Path(__file__).parent

TOLERANCE = {
    torch.float64: 1e-10,
    torch.float32: 1e-5,
    torch.float16: 2e-3,
    torch.bfloat16: 1.6e-2,
}
"""Largest error, relative to the largest value expected; two units in the last place of half precision. Integers and
the rest are exact."""


class MismatchError(AssertionError):
    """Ours differs from the reference, or the case cannot be checked in full."""


class Case:
    """A case, and the account of its tensors."""

    def __init__(self, folder: Path) -> None:
        self.name = folder.name
        file = folder / "case.json"
        if not file.is_file():
            raise MismatchError(f"{self.name}: no case.json; it is no golden case")
        self.spec: dict[str, Any] = json.loads(file.read_text())
        self.tensors = load_file(folder / "tensors.safetensors")
        absent = self.spec.get("tensors", {}).keys() - self.tensors.keys()
        if absent:
            raise MismatchError(f"{self.name}: case.json lists tensors that are not in the file: {sorted(absent)}")
        self.compared: set[str] = set()
        self.left_out: dict[str, str] = {}
        self._given: dict[str, Tensor] = {}

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def given(self, name: str) -> Tensor:
        """An input."""
        return self._given.setdefault(name, self.tensors[name].clone())

    def check(self, name: str, actual: Tensor, rows: slice = slice(None), rounding: Tensor | None = None) -> None:
        """Compare with an output of the reference, or with some of its rows; `rounding` as for `close`."""
        expected = self.tensors[name]
        expected = expected[rows] if expected.ndim else expected
        self.equal(f"dtype of {name}", actual.dtype, expected.dtype)
        self.equal(f"shape of {name}", tuple(actual.shape), tuple(expected.shape))
        self.close(name, actual, expected, rounding)
        self.compared.add(name)

    def close(self, label: str, actual: Tensor, expected: Tensor, rounding: Tensor | None = None) -> None:
        """Compare values within the tolerance of the dtype expected; non-finite ones must be the same.

        Args:
            rounding: by how much more each value may differ, since processors round what it is made of differently.
        """
        actual, expected = actual.detach(), expected.detach()
        if expected.dtype not in TOLERANCE:
            if not torch.equal(actual, expected):
                raise MismatchError(
                    f"{self.name}: {label} differs: {actual.flatten()[:8]} for {expected.flatten()[:8]}"
                )
            return
        actual64, expected64 = actual.double(), expected.double()
        finite = expected64.isfinite()
        same = torch.allclose(actual64[~finite], expected64[~finite], equal_nan=True)
        if not same or not actual64[finite].isfinite().all():
            raise MismatchError(f"{self.name}: {label} is not finite where the reference is, or the other way round")
        if not finite.any():
            return
        difference = (actual64 - expected64).abs()
        if rounding is not None:
            difference = (difference - rounding).clamp(min=0)
        error = difference[finite].max().item()
        largest = expected64[finite].abs().max().item()
        if error > TOLERANCE[expected.dtype] * largest:
            raise MismatchError(
                f"{self.name}: {label} is off by {error:.3g} where the largest value is {largest:.3g}; for "
                f"{expected.dtype} {TOLERANCE[expected.dtype]:g} of that is allowed"
            )

    def equal(self, label: str, actual: Any, expected: Any) -> None:
        """Compare plain values exactly."""
        if actual != expected:
            raise MismatchError(f"{self.name}: {label} is {actual}, the reference has {expected}")

    def leave_out(self, prefix: str, reason: str) -> None:
        """Do not compare the tensors whose name starts so; the reason is one of `MISSING` or `WRONG`."""
        assert reason in (*MISSING.values(), *WRONG.values()), reason
        self.left_out.update(dict.fromkeys((name for name in self.tensors if name.startswith(prefix)), reason))

    def close_account(self) -> None:
        """Fail for tensors that nothing was done with, for inputs that were changed, and if nothing was compared."""
        for name, tensor in self._given.items():
            if not torch.equal(tensor.nan_to_num(), self.tensors[name].nan_to_num()):
                raise MismatchError(f"{self.name}: the input {name} was changed in place")
        rest = self.tensors.keys() - self.compared - self.left_out.keys() - self._given.keys()
        if rest:
            raise MismatchError(f"{self.name}: nothing was done with {sorted(rest)}")
        if not self.compared and not self.left_out:
            raise MismatchError(f"{self.name}: nothing was compared")


def find_cases(folder: Path) -> list[Path]:
    """The case folders in a folder: all of its subfolders but those of this harness.

    Raises:
        MismatchError: there is none.
    """
    ours = {"areas", "__pycache__"}
    found = [path for path in folder.glob("[!.]*") if path.is_dir() and path.name not in ours]
    if not found:
        raise MismatchError(f"there are no golden cases in {folder}")
    return sorted(found)


def run(folder: Path) -> Case:
    """Compare a case.

    Raises:
        MismatchError: ours is wrong, or the case is not understood.
        NotBuiltError: all of it is about something that ours does not have yet; the message names it.
    """
    case = Case(folder)
    area = str(case.spec.get("area"))
    if area in MISSING:
        raise NotBuiltError(MISSING[area])
    if not (HERE / "areas" / f"{area}.py").is_file():
        raise MismatchError(f"{case.name}: unknown area {area!r}; a runner areas/{area}.py is needed")
    importlib.import_module(f"golden.areas.{area}").run(case)
    case.close_account()
    if not case.compared:
        raise NotBuiltError("; ".join(sorted(set(case.left_out.values()))))
    return case
