"""What is true of every component, whatever its kind."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
from typing import Any

import torch
from torch import Tensor, nn

from sgm_core.config.schema import AnyType, Opaque, describe, is_instance, role_of
from sgm_core.testing import trees
from sgm_core.testing.contract import Contract
from sgm_core.testing.subject import Subject

TOLERANCE = 1e-6
"""Two runs that should be equal may differ by what a parallel sum does."""

CALL, SEE_ROLE = "it can be used as its role says", "compare its signature and results with sgm_core/roles.py"


def check_description(subject: Subject) -> None:
    """The component says what it is and what it can be given."""
    target = subject.target
    doc = (vars(target).get("__doc__") if inspect.isclass(target) else target.__doc__) or ""
    generated = dataclasses.is_dataclass(target) and doc.startswith(f"{subject.name}(")
    subject.expect(
        bool(doc.strip()) and not generated,
        "a component has a docstring",
        "none",
        "say in its first line what it is; `sgm show` prints it",
    )
    if _foreign(target):
        return
    subject.expect(
        not subject.schema.open,
        "every parameter has a name of its own, which a config can be checked against",
        "**kwargs in the constructor",
        "name each parameter that it takes",
    )
    taken = [p for p in inspect.signature(target).parameters.values() if p.name in subject.schema.parameters]
    for parameter in taken:
        name, annotation = parameter.name, parameter.annotation
        subject.expect(
            annotation is not parameter.empty,
            "every parameter is annotated, for the signature is the schema of the config",
            f"'{name}' is not",
            f"annotate it, e.g. `{name}: int`",
        )
        type_ = subject.schema.parameters[name].type
        subject.expect(
            not isinstance(type_, AnyType) or annotation in _ANYTHING,
            "every annotation can be read at run time",
            f"that of '{name}', {annotation!r}, cannot",
            "import its names at the top of the module, not under TYPE_CHECKING",
        )
        subject.expect(
            not (isinstance(type_, Opaque) and parameter.default is parameter.empty),
            "every required parameter can be written in a config",
            f"'{name}' takes {describe(type_)}",
            "take numbers, strings, lists, dataclasses or components, or give it a default",
        )


_ANYTHING = (Any, object, "Any", "object", "typing.Any")


def _foreign(target: Any) -> bool:
    """Whether the constructor is torch's or Lightning's, whose annotations are no business of a plugin's author."""
    constructor = target.__init__ if inspect.isclass(target) else target
    return str(getattr(constructor, "__module__", None)).partition(".")[0] in {"torch", "lightning"}


def check_behaviour(subject: Subject, contract: Contract) -> None:
    """One use of the component, repeated, copied, saved, cast and frozen."""
    component = subject.build()
    kind = subject.kind
    if not kind.late:
        role = role_of(kind.name)
        if getattr(role, "_is_protocol", False):  # a call, but by a module: the engine trains, moves and saves it
            role = nn.Module
        name = f"{role.__module__}.{role.__name__}".replace("torch.nn.modules.module.", "torch.nn.")
        subject.expect(
            is_instance(component, role),
            f"it is a {name}",
            f"a {type(component).__name__} that is none",
            f"derive it from {name}",
        )
    module = component if isinstance(component, nn.Module) else None
    if module is not None:
        module.eval()
    inputs = contract.inputs()
    kept = trees.clone(inputs)

    def use(used: Any, given: Any, promise: str = CALL, advice: str = SEE_ROLE) -> Any:
        torch.manual_seed(0)
        with subject.trying(promise, advice):
            return trees.clone(contract.call(used, given))

    result = use(component, inputs)
    changed = trees.difference(inputs, kept)
    subject.expect(
        not changed,
        "what it is called with is left as it was",
        f"of its inputs, {changed}",
        "work on a copy: `x = x + y` where there is `x += y`, and no assignment into x or a batch",
    )

    def expect_same(now: Any, promise: str, advice: str) -> None:
        different = trees.difference(now, result, tolerance=TOLERANCE)
        subject.expect(not different, promise, f"of its results, {different}", advice)

    expect_same(
        use(component, trees.clone(kept)),
        "the same call under the same seed gives the same again",
        "draw from the generator given or from torch's random state, and keep nothing of a call on `self`",
    )
    if not kind.late:
        expect_same(
            use(_copied(subject, component), trees.clone(kept)),
            "a copy does what the original does",
            "keep what it needs as plain attributes, parameters or buffers",
        )
    if module is not None:
        other = _check_state_dict(subject, module)
        if not contract.continues:
            expect_same(use(other, trees.clone(kept)), "its state dict holds all that it needs to do the same", _STATE)
        _check_moves(module, subject, lambda used, given, *said: use(used, given(trees.clone(kept)), *said), result)
        _check_freezing(subject, module, lambda used: contract.call(used, trees.clone(kept)))


def _copied(subject: Subject, component: Any) -> Any:
    """Through pickle, as it goes to another process; a class that is no attribute of its module, through copy."""
    with subject.trying(
        "it can be pickled, to go to another process",
        "keep no lambdas, local functions, open files or random generators as attributes",
    ):
        if "<locals>" in type(component).__qualname__ or type(component).__module__ == "__main__":
            return copy.deepcopy(component)
        return pickle.loads(pickle.dumps(component))


_STATE = "register what it has learnt as parameters or buffers, made in the constructor, each under its own name"


def _check_state_dict(subject: Subject, module: nn.Module) -> nn.Module:
    """Another one, built with other weights, that has loaded the state dict."""
    other: nn.Module = subject.build(seed=1).eval()
    with subject.trying("its state dict loads into another one built alike", _STATE):
        other.load_state_dict(copy.deepcopy(module.state_dict()))
    different = trees.difference(other.state_dict(), module.state_dict())
    subject.expect(not different, "a state dict that was loaded is given back", f"in it, {different}", _STATE)
    return other


def _check_moves(module: nn.Module, subject: Subject, use: Any, result: Any) -> None:
    """To another dtype and, where there is one, another device."""
    if type(module)._apply is nn.Module._apply:
        for name, part in module.named_modules():
            loose = [key for key, value in vars(part).items() if isinstance(value, Tensor)]
            subject.expect(
                not loose or type(part)._apply is not nn.Module._apply,
                "all its tensors move with it to another device",
                f"a tensor as a plain attribute, '{'.'.join(filter(None, [name, *loose[:1]]))}'",
                "make it a buffer: self.register_buffer(name, tensor, persistent=False)",
            )
    for dtype in (torch.float64, torch.bfloat16):
        moved = copy.deepcopy(module).to(dtype)
        left = [n for n, p in moved.named_parameters() if p.is_floating_point() and p.dtype != dtype]
        subject.expect(
            not left, f"its parameters follow `.to({dtype})`", f"'{left and left[0]}' does not", "override no `to`"
        )
        promise = f"it works in {dtype}"
        given = use(moved, lambda inputs: trees.cast(inputs, dtype), promise, "name no dtype: use that of its inputs")  # noqa: B023
        subject.expect(
            trees.is_finite(given) or not trees.is_finite(result),
            promise,
            "infinite values or NaN",
            "compute what overflows in float32 at least",
        )
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if device is not None:
        moved = copy.deepcopy(module).to(device)
        advice = "name no device: use that of its inputs, and make every tensor that it holds a buffer"
        use(moved, lambda inputs: trees.map_tensors(lambda t: t.to(device), inputs), f"it works on {device}", advice)


def _check_freezing(subject: Subject, module: nn.Module, use: Any) -> None:
    before = {name: parameter.requires_grad for name, parameter in module.named_parameters()}
    module.requires_grad_(False)
    torch.manual_seed(0)
    grown = [tensor for tensor in trees.floats(use(module)) if tensor.requires_grad]
    thawed = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
    subject.expect(
        not grown and not thawed,
        "frozen, it takes part in no gradient",
        f"'{thawed[0]}' requires one again" if thawed else "a result that requires one",
        "create no parameters in a call, and leave `requires_grad` to the engine",
    )
    module.requires_grad_(True)
    still = [n for n, p in module.named_parameters() if p.is_floating_point() and not p.requires_grad]
    subject.expect(
        not still,
        "it can be unfrozen",
        f"'{still and still[0]}' stays frozen",
        "leave `requires_grad_` as torch has it",
    )
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(before[name])
