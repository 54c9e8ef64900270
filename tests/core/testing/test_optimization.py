"""Averages, optimizers and lr schedules: each broken promise is found."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import torch
from support.broken_components import Case, Cases
from torch import nn

from sgm_core.roles import Average
from sgm_core.testing import check_component

broken = Cases()


class Last(Average):
    """Remembers the start alone, which is an average too."""

    def __init__(self) -> None:
        super().__init__()
        self.num_updates, self._swapped = 0, False

    @property
    def swapped(self):
        return self._swapped

    @torch.no_grad()
    def track(self, parameters):
        self.tracked = parameters
        self.reset()

    def update(self):
        self.num_updates += 1

    def reset(self):
        self.num_updates = 0
        self.shadows = {name: parameter.detach().clone() for name, parameter in self.tracked.items()}

    @torch.no_grad()
    def swap(self):
        for name, parameter in self.tracked.items():
            live = parameter.clone()
            parameter.copy_(self.shadows[name])
            self.shadows[name] = live
        self._swapped = not self._swapped


@broken("averages", "its state dict holds all")
class SavesNothing(Last):
    """An average that starts again with each run."""


@broken("averages", "lies between the values")
class Overshoots(Last):
    """Weights that do not sum to 1."""

    def update(self):
        super().update()
        self.shadows = {name: 2 * shadow for name, shadow in self.shadows.items()}


@broken("averages", "second swap gives the live values back")
class SwapsInexactly(Last):
    """Loses a little each time."""

    @torch.no_grad()
    def swap(self):
        super().swap()
        for parameter in self.tracked.values():
            parameter.add_(1e-3)


@broken("optimizers", "a step lowers")
class Uphill(torch.optim.SGD):
    """Minus the gradient's sign."""

    def __init__(self, params: Iterable[nn.Parameter], lr: float = 0.1) -> None:
        super().__init__(params, lr=lr, maximize=True)


@broken("optimizers", "goes on as it would have")
class HiddenState(torch.optim.SGD):
    """Slower with each step, which its state does not know."""

    def __init__(self, params: Iterable[nn.Parameter], lr: float = 0.1) -> None:
        super().__init__(params, lr=lr)
        self.steps = 0

    def step(self, closure=None):
        self.steps += 1
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.data.add_(parameter.grad, alpha=-group["lr"] / self.steps)


@broken("lr_schedules", "finite and not negative(?s:.*)at step 51")
def runs_past_its_end(optimizer: torch.optim.Optimizer, total_steps: int = 50) -> torch.optim.lr_scheduler.LRScheduler:
    """A straight line that goes on."""
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / total_steps)


@broken("averages", "it starts without history")
class CountsFromOne(Last):
    """Takes the start for an update."""

    def reset(self):
        super().reset()
        self.num_updates = 1


@broken("averages", "num_updates counts the updates")
class DoesNotCount(Last):
    """Stays at 0."""

    def update(self):
        pass


@broken("averages", "it says whether it is swapped in")
class DeniesTheSwap(Last):
    """Always live, it says."""

    @property
    def swapped(self):
        return False


class SavedLast(Last):
    """Remembers the start alone, and saves it."""

    def get_extra_state(self):
        return {"num_updates": self.num_updates, "shadows": self.shadows}

    def set_extra_state(self, state):
        self.num_updates, self.shadows = state["num_updates"], dict(state["shadows"])


@broken("averages", "reset starts afresh")
class NeverResets(SavedLast):
    """Forgets nothing."""

    def track(self, parameters):
        self.tracked = parameters
        super().reset()

    def reset(self):
        pass


@broken("optimizers", "it gives a torch optimizer")
def no_optimizer(params: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Something with a step."""

    class Steps:
        def zero_grad(self):
            pass

        def step(self):
            pass

    return Steps()


@broken("optimizers", "each parameter group has its own lr")
class OneRateForAll(torch.optim.Optimizer):
    """Descends with its own lr, whatever the group's."""

    def __init__(self, params: Iterable[nn.Parameter], lr: float = 0.1) -> None:
        super().__init__(params, {"lr": lr})
        self.lr = lr

    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.data.add_(parameter.grad, alpha=-self.lr)


@broken("lr_schedules", "its lr is not always 0")
def stands_still(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    """Nothing happens."""
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0)


class Countdown:
    def __init__(self) -> None:
        self.left = 1000

    def __call__(self, step):
        self.left = max(self.left - 1, 0)
        return self.left / 1000


@broken("lr_schedules", "goes on as it would have")
def forgets_its_step(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    """Counts its own calls, which a lambda does not save."""
    countdown = Countdown()
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: countdown(step))


@pytest.mark.parametrize("case", broken)
def test_it_is_found(case: Case):
    case.check()


@pytest.mark.parametrize(
    ("kind", "component", "inputs"),
    [
        ("averages", SavedLast, {}),
    ],
)
def test_what_the_broken_ones_were_made_from_is_whole(kind, component, inputs):
    check_component(kind, component, inputs=inputs)
