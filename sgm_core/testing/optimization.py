"""What weight averages, optimizers and learning-rate schedules promise."""

from __future__ import annotations

import copy
import io
import math
from typing import Any

import torch
from torch import Tensor, nn

from sgm_core.testing import trees
from sgm_core.testing.contract import Contract
from sgm_core.testing.subject import Subject

NAMES = ("model.weight", "model_weight", "model.weight_2")
"""Parameters whose names become one where dots are replaced."""


def _parameters() -> dict[str, nn.Parameter]:
    return {name: nn.Parameter(torch.arange(1.0, 5.0) * (i + 1)) for i, name in enumerate(NAMES)}


def _restore(subject: Subject, other: Any, used: Any, advice: str) -> None:
    """Through a file, as a checkpoint is read."""
    file = io.BytesIO()
    with subject.trying("its state dict is saved and loaded", advice):
        torch.save(used.state_dict(), file)
        file.seek(0)
        other.load_state_dict(torch.load(file, weights_only=True))


class AverageContract(Contract):
    """Between the values that it took in, exchanged exactly, and saved without loss."""

    continues = True

    def inputs(self) -> Any:
        return {"shift": torch.tensor([1.0, -2.0, 0.5])}

    def call(self, component: Any, inputs: Any) -> Any:
        parameters = _parameters()
        component.track(parameters)
        self._take_in(component, parameters, inputs["shift"].float())
        component.swap()
        averaged = trees.clone(parameters)
        component.swap()
        return averaged

    @staticmethod
    @torch.no_grad()
    def _take_in(average: Any, parameters: dict[str, nn.Parameter], shifts: Tensor) -> None:
        for shift in shifts:
            for parameter in parameters.values():
                parameter.add_(shift)
            average.update()

    def check(self) -> None:
        average, parameters, expect = self.subject.build(), _parameters(), self.subject.expect
        values = [trees.clone(parameters)]
        average.track(parameters)
        expect(average.num_updates == 0, "it starts without history", f"{average.num_updates} updates", "count them")
        for shift in (1.0, -2.0, 0.5):
            self._take_in(average, parameters, torch.tensor([shift]))
            values.append(trees.clone(parameters))
        expect(average.num_updates == 3, "num_updates counts the updates", f"{average.num_updates} of 3", "count them")
        live = values[-1]
        average.swap()
        averaged = trees.clone(parameters)
        expect(average.swapped is True, "it says whether it is swapped in", f"{average.swapped!r}", "set `swapped`")
        average.swap()
        expect(
            not trees.difference(parameters, live) and average.swapped is False,
            "a second swap gives the live values back, bit for bit",
            "others",
            "exchange the tensors, do not compute them back",
        )
        for name in parameters:
            history = torch.stack([value[name] for value in values])
            low, high = history.amin(dim=0) - 1e-5, history.amax(dim=0) + 1e-5
            expect(
                bool(((averaged[name] >= low) & (averaged[name] <= high)).all()),
                "an average lies between the values that it took in",
                f"'{name}' does not",
                "let the weights of all values sum to 1, and keep each parameter apart from the others",
            )
        self._check_state(average, parameters)
        average.reset()
        average.swap()
        expect(
            average.num_updates == 0 and not trees.difference(parameters, live),
            "reset starts afresh from the present values",
            "it remembers",
            "copy the values and set num_updates to 0",
        )

    def _check_state(self, average: Any, parameters: dict[str, nn.Parameter]) -> None:
        other, twins = self.subject.build(seed=1), copy.deepcopy(parameters)
        advice = "save the averages under names that cannot collide, and num_updates beside them"
        other.track(twins)
        _restore(self.subject, other, average, advice)
        average, parameters = copy.deepcopy((average, parameters))
        for used, tracked in ((average, parameters), (other, twins)):
            self._take_in(used, tracked, torch.tensor([2.0]))
            used.swap()
        self.subject.expect(
            not trees.difference(twins, parameters) and other.num_updates == average.num_updates,
            "its state dict holds all that it needs to go on",
            "another average after the next update",
            advice,
        )


class OptimizerContract(Contract):
    """Downhill, from parameters or parameter groups, and on from a saved state."""

    def inputs(self) -> Any:
        return {"start": torch.tensor([1.0, -2.0, 3.0, -4.0])}

    def call(self, component: Any, inputs: Any) -> Any:
        weight = nn.Parameter(inputs["start"].clone())
        self._descend(component([weight]), weight, 3)
        return {"weight": weight}

    @staticmethod
    def _descend(optimizer: Any, weight: nn.Parameter, steps: int) -> None:
        """On |w|^2 / 2."""
        for _ in range(steps):
            optimizer.zero_grad()
            (weight.square().sum() / 2).backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    def check(self) -> None:
        build, expect, start = self.subject.build, self.subject.expect, self.inputs()["start"]
        weight = nn.Parameter(start.clone())
        with self.subject.trying("it takes parameters", "take `params` as torch's optimizers do"):
            optimizer = build()([weight])
        expect(
            isinstance(optimizer, torch.optim.Optimizer),
            "it gives a torch optimizer",
            f"{type(optimizer).__name__}",
            "derive it from torch.optim.Optimizer",
        )
        self._descend(optimizer, weight, 1)
        expect(
            bool(weight.square().sum() < start.square().sum()),
            "a step lowers |w|^2",
            f"from {start.square().sum():.4g} to {weight.square().sum():.4g}",
            "look at the sign, and at the default lr",
        )
        twin = nn.Parameter(weight.detach().clone())
        other = build()([twin])
        _restore(self.subject, other, optimizer, "keep its state in `self.state`")
        self._descend(optimizer, weight, 3)
        self._descend(other, twin, 3)
        different = trees.difference(twin, weight, tolerance=1e-6)
        expect(not different, "with its saved state it goes on as it would have", different, "keep it in `self.state`")
        with self.subject.trying("it takes parameter groups", "hand `params` to super().__init__ as they are"):
            a, b = nn.Parameter(start.clone()), nn.Parameter(start.clone())
            groups = build()([{"params": [a]}, {"params": [b], "lr": 0.0}])
        self._descend(groups, a, 1)
        self._descend(groups, b, 1)
        expect(
            bool((a != start).all()) and torch.equal(b, start),
            "each parameter group has its own lr",
            "a group with lr 0 moved, or another did not",
            "read lr from the group in `step`",
        )


class LRScheduleContract(Contract):
    """A finite learning rate, step by step, and on from a saved state."""

    def call(self, component: Any, inputs: Any) -> Any:
        return {"lr": self._run(*self._made(component), 20)}

    @staticmethod
    def _made(component: Any) -> tuple[Any, Any]:
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
        return optimizer, component(optimizer)

    @staticmethod
    def _run(optimizer: Any, schedule: Any, steps: int) -> list[float]:
        rates = []
        for _ in range(steps):
            rates.append(float(optimizer.param_groups[0]["lr"]))
            optimizer.step()
            schedule.step()
        return rates

    def check(self) -> None:
        build, expect = self.subject.build, self.subject.expect
        optimizer, schedule = self._made(build())
        rates = self._run(optimizer, schedule, 1000)
        for step, rate in enumerate(rates):
            good, seen = math.isfinite(rate) and rate >= 0, f"{rate} at step {step}"
            expect(good, "its lr is finite and not negative for 1000 steps", seen, "let it stay at its end")
        expect(any(rate > 0 for rate in rates), "its lr is not always 0", "it is", "look at the units of its steps")
        optimizer, schedule = self._made(build())
        self._run(optimizer, schedule, 10)
        other_optimizer, other = self._made(build())
        advice = "keep plain numbers only: a checkpoint is read with weights_only=True"
        _restore(self.subject, other, schedule, advice)
        _restore(self.subject, other_optimizer, optimizer, advice)
        expect(
            self._run(other_optimizer, other, 20) == self._run(optimizer, schedule, 20),
            "with its saved state it goes on as it would have",
            "another lr",
            "keep the step in its state dict",
        )
