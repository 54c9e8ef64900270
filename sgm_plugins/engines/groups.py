"""Parameters that are trained differently from the rest, chosen by their names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from annotated_types import Gt
from torch import nn
from torch.optim import Optimizer

from sgm_core.roles import OptimizerFactory


@dataclass(frozen=True)
class ParameterGroup:
    r"""The parameters whose names match, unless an earlier group has them.

    Attributes:
        pattern: a regular expression, found anywhere in the name: `^first_stage_model\.decoder\.`.
        trainable: false leaves them as they are.
        lr_factor: their learning rate is what it would be, times this.
        options: other arguments of the optimizer, for them alone: {weight_decay: 0.0}.
    """

    pattern: str
    trainable: bool = True
    lr_factor: Annotated[float, Gt(0)] = 1.0
    options: dict[str, Any] = field(default_factory=dict)


def assign(groups: Iterable[ParameterGroup], names: Iterable[str]) -> dict[str, ParameterGroup]:
    """The group of each name that has one.

    Raises:
        ValueError: a pattern that is no regular expression, or that nothing is left for.
    """
    names = list(names)
    found: dict[str, ParameterGroup] = {}
    for group in groups:
        try:
            pattern = re.compile(group.pattern)
        except re.error as error:
            raise ValueError(f"parameter_groups: {group.pattern!r} is no regular expression: {error}") from error
        matching = [name for name in names if name not in found and pattern.search(name)]
        if not matching:
            known = ", ".join(names[:3])
            raise ValueError(
                f"parameter_groups: no parameter is left that matches {group.pattern!r}; their names are like {known}"
            )
        found |= dict.fromkeys(matching, group)
    return found


def grouped_optimizer(
    make: OptimizerFactory,
    parameters: Mapping[str, nn.Parameter],
    groups: Mapping[str, ParameterGroup],
    lr_factors: Mapping[str, float],
) -> Optimizer:
    """One optimizer of several groups.

    Args:
        make: called with torch's parameter groups.
        parameters: all of them by name.
        groups: of those that have one.
        lr_factors: of each parameter, beside its group's.

    Raises:
        ValueError: an option that this optimizer has not.
    """
    default = ParameterGroup("")
    members: dict[tuple[float, int], list[str]] = {}
    for name in parameters:
        members.setdefault((lr_factors[name], id(groups.get(name, default))), []).append(name)
    parts = [(groups.get(names[0], default), names) for names in members.values()]
    optimizer = make([{"params": [parameters[n] for n in names], **group.options} for group, names in parts])
    for (group, names), made in zip(parts, optimizer.param_groups, strict=True):
        for option in group.options:
            if option not in optimizer.defaults:
                known = ", ".join(optimizer.defaults)
                raise ValueError(
                    f"parameter_groups: {group.pattern!r} asks for '{option}', which {type(optimizer).__name__} has "
                    f"not; it has {known}"
                )
        made["lr"] = made["lr"] * group.lr_factor * lr_factors[names[0]]
    return optimizer
