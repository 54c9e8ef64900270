"""What networks, embedders and conditioners promise."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sgm_core.conditioning import Conditioning
from sgm_core.config.api import build
from sgm_core.roles import Conditioner
from sgm_core.slots import EmbedderSlot, describe, like, null_outputs
from sgm_core.testing import trees
from sgm_core.testing.contract import BatchContract, Contract
from sgm_core.testing.promises import finite, gradients_reach
from sgm_core.testing.shapes import check_outputs, check_takes
from sgm_core.testing.stand_ins import seeded
from sgm_core.testing.subject import Subject


class NetworkContract(Contract):
    """(b, c, *grid) in, the same samples and grid out, every parameter taking part."""

    def __init__(self, subject: Subject, x: Tensor, timesteps: Tensor, **others: Any) -> None:
        super().__init__(subject)
        self.given = {"x": x, "timesteps": timesteps, **others}

    def call(self, component: Any, inputs: Any) -> Any:
        return component(**inputs)

    def check(self) -> None:
        network, x = self.subject.build(), self.given["x"]
        out = network(**self.inputs())
        self.subject.expect(
            isinstance(out, Tensor) and out.ndim == x.ndim and (len(out), *out.shape[2:]) == (len(x), *x.shape[2:]),
            "it gives (b, c, *grid), the samples and the grid of x",
            f"{describe(out)} for {describe(x)}",
            "undo on the way up what was done on the way down; only the channels may differ",
        )
        finite(self.subject, "its output is finite", out)
        if out.requires_grad:
            out.float().square().mean().backward()
        check_takes(self.subject, network, self.given)
        advice = "delete what the call does not use, detach nothing, or give inputs that use all of it"
        gradients_reach(self.subject, network, advice)


class EmbedderContract(BatchContract):
    """Tensors of rank 2 to 5 with a row, or k rows, per sample, which a conditioner can route, drop and train."""

    def __init__(self, subject: Subject, **entries: Any) -> None:
        super().__init__(subject, **entries)
        if not entries:
            raise ValueError(f"{subject} needs inputs: the entries that it is called with, {{'cls': tensor}}")
        self.samples = len(next(iter(entries.values())))

    def check(self) -> None:
        embedder = self.subject.build().eval()
        for rows in (self.samples, 1):
            entries = [entry[:rows] for entry in self.inputs().values()]
            with self.subject.trying(f"it embeds {rows} samples", "let the number of samples be any"):
                outputs = embedder(*entries)
                self._check_outputs(outputs, rows, tells_null=hasattr(embedder, "null_outputs"))
                check_outputs(self.subject, embedder, entries, [outputs] if isinstance(outputs, Tensor) else outputs)
        self._check_unconditional()
        self._check_training()
        self._check_check(embedder)

    def _check_outputs(self, outputs: Any, samples: int, tells_null: bool = False) -> None:
        expect = self.subject.expect
        parts = [outputs] if isinstance(outputs, Tensor) else outputs
        expect(
            isinstance(parts, (list, tuple)) and len(parts) > 0 and all(isinstance(part, Tensor) for part in parts),
            "it gives one tensor or a list of tensors",
            describe(outputs),
            "return the tensors alone",
        )
        for part in parts:
            expect(
                2 <= part.ndim <= 5,
                "its outputs have rank 2 (vector), 3 (crossattn), 4 or 5 (concat)",
                describe(part),
                "give (b, d), (b, tokens, d) or (b, c, *grid)",
            )
            expect(
                (part.is_floating_point() and trees.is_finite(part)) or (part.dtype == torch.int64 and tells_null),
                "its outputs are finite floating-point numbers, or class numbers with `null_outputs`",
                describe(part) + ("" if trees.is_finite(part) else " with NaN or infinity"),
                "give floating-point numbers, and look for a division by zero; zero is no number for 'no class'",
            )
            expect(
                len(part) > 0 and len(part) % samples == 0,
                "its outputs have one row, or the same number of rows, per sample",
                f"{describe(part)} for {samples} samples",
                "keep the samples on the first dimension",
            )

    def _conditioner(self, **slot: Any) -> Conditioner:
        """The built-in conditioner, with the embedder in its only slot."""
        embedder = EmbedderSlot(self.subject.build(), input_keys=list(self.given), **slot)
        conditioner: Conditioner = build("conditioners", {"use": "general", "embedders": [embedder]})
        return conditioner

    def _check_unconditional(self) -> None:
        conditioner, advice = self._conditioner(ucg_rate=0.5), "keep a sample's rows together on the first dimension"

        def embed(batch: Any, *, seed: int = 0, **options: Any) -> list[Tensor]:
            torch.manual_seed(seed)  # of an embedder that adds noise; drops have a generator
            return trees.tensors(conditioner(batch, **options))

        with self.subject.trying("a conditioner can embed and drop with it", advice):
            conditioner.check(self.inputs())
            full = embed(self.inputs(), drop=False)
            empty = trees.tensors(conditioner.unconditional(self.inputs()))
            drawn = [embed(self.inputs(), generator=seeded(i)) for i in range(8)]
        nulls = null_outputs(conditioner.embedders[0], len(full))
        given = [torch.zeros_like(f) if n is None else like(f, n) for f, n in zip(full, nulls, strict=True)]
        self.subject.expect(
            [e.shape for e in empty] == [f.shape for f in full] and all(map(torch.equal, empty, given)),
            "its unconditional state is zeros of the same shape, or what its `null_outputs` gives",
            f"{[tuple(e.shape) for e in empty]} for {[tuple(f.shape) for f in full]}",
            advice,
        )
        random = bool(trees.difference(embed(self.inputs(), drop=False, seed=1), full))
        for i in range(self.samples):
            alone = embed({key: entry[i : i + 1] for key, entry in self.inputs().items()}, drop=False)
            for outputs in drawn:
                for output, whole, own, null in zip(outputs, full, alone, given, strict=True):
                    rows, expected, dropped = (part.chunk(self.samples)[i] for part in (output, whole, null))
                    if own.shape == expected.shape and not random:  # tokens may be padded to the longest of the batch
                        expected = own
                    self.subject.expect(
                        torch.equal(rows, dropped) or not trees.difference(rows, expected, tolerance=1e-4),
                        "a sample is dropped as a whole, and the others stay what they are alone",
                        f"sample {i} of {self.samples} is neither",
                        advice,
                    )

    def _check_training(self) -> None:
        if not any(parameter.requires_grad for parameter in self.subject.build().parameters()):
            return
        conditioner = self._conditioner(trainable=True).train()
        outputs = [out for out in trees.floats(conditioner(self.inputs(), drop=False)) if out.requires_grad]
        if outputs:
            torch.stack([out.float().square().sum() for out in outputs]).sum().backward()  # type: ignore[no-untyped-call]
        self.subject.expect(
            any(parameter.grad is not None for parameter in conditioner.parameters()),
            "trainable, it trains: gradients reach its parameters",
            "they reach none",
            "use no torch.no_grad and no detach: whether it is frozen is its slot's business",
        )

    def _check_check(self, embedder: nn.Module) -> None:
        check = getattr(embedder, "check", None)
        if check is None:
            return
        given = self.inputs()
        with self.subject.trying("its check passes what it can embed", "raise for nothing else"):
            check(*given.values())
        changed = trees.difference(given, self.given)
        self.subject.expect(not changed, "its check leaves the entries as they are", changed, "work on a copy")
        promise, advice = "its check raises ValueError for what it cannot embed", "test the types of the entries first"
        with self.subject.trying(promise, advice):
            try:
                check(*(object() for _ in self.given))
            except ValueError:
                return
        self.subject.expect(False, promise, "it lets object() pass", advice)


class ConditionerContract(BatchContract):
    """A batch to a conditioning, with an unconditional state of the same form."""

    def call(self, component: Any, inputs: Any) -> Any:
        return component(inputs, drop=False)

    def check(self) -> None:
        conditioner, expect = self.subject.build(), self.subject.expect
        cond = conditioner(self.inputs(), drop=False)
        expect(isinstance(cond, Conditioning), "it gives a Conditioning", describe(cond), "return Conditioning(...)")
        keys = conditioner.input_keys
        expect(
            isinstance(keys, tuple) and len(set(keys)) == len(keys) and set(keys) <= set(self.given),
            "input_keys names each entry that it reads once",
            f"{keys!r} for a batch of {sorted(self.given)}",
            "give the names of the batch entries, or a batch that has them",
        )
        shapes = [tensor.shape for tensor in trees.tensors(cond)]
        uncond = conditioner.unconditional(self.inputs())
        expect(
            [tensor.shape for tensor in trees.tensors(uncond)] == shapes,
            "the unconditional state has the form of the conditioning, so that both fit into one batch",
            f"{[tuple(tensor.shape) for tensor in trees.tensors(uncond)]} for {[tuple(shape) for shape in shapes]}",
            "replace embeddings, leave none out",
        )
        zeros = conditioner(self.inputs(), drop=False, force_zero=keys)
        expect(
            not any(bool(tensor.any()) for tensor in trees.floats(zeros)),
            "force_zero replaces the embeddings of these entries by zeros",
            "some are not zero",
            "give torch.zeros_like(output)",
        )
        with self.subject.trying("its check passes what it can embed", "raise for nothing else"):
            conditioner.check(self.inputs())
        for key in keys:
            rest = {name: entry for name, entry in self.inputs().items() if name != key}
            seen = "no ValueError"
            try:
                conditioner.check(rest)
            except ValueError as error:
                seen = "" if key in str(error) else str(error)
            expect(
                not seen,
                "its check names an entry that is missing, in a ValueError",
                f"{seen} without '{key}'",
                f"name it: raise ValueError(\"the batch has no '{key}'\")",
            )
