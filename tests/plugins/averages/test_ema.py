"""The exponential moving average: its law, its precision, its names, the swap, its state."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import Tensor, nn

from sgm_plugins.averages.ema import EMA


def parameter(*values: float, dtype: torch.dtype = torch.float32) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values, dtype=dtype))


def tracking(parameters: dict[str, nn.Parameter], decay: float = 0.9, warmup: bool = False) -> EMA:
    ema = EMA(decay, warmup)
    ema.track(parameters)
    return ema


def shadow(ema: EMA, name: str) -> Tensor:
    return ema.state_dict()[f"shadow.{name}"].clone()


def put(p: nn.Parameter, *values: float) -> None:
    with torch.no_grad():
        p.copy_(torch.tensor(values))


# --- the law ---


@pytest.mark.parametrize(("decay", "warmup"), [(0.9, False), (0.9999, True), (0.3, True), (0.0, False)])
def test_the_average_is_the_weighted_sum_of_the_past(decay: float, warmup: bool) -> None:
    torch.manual_seed(0)
    p = nn.Parameter(torch.randn(5, dtype=torch.float64))
    ema = tracking({"p": p}, decay, warmup)
    weights, values = [1.0], [p.detach().clone()]
    for n in range(1, 21):
        put(p, *torch.randn(5).tolist())
        ema.update()
        d = min(decay, (1 + n) / (10 + n)) if warmup else decay
        weights = [d * w for w in weights] + [1 - d]
        values.append(p.detach().clone())
        expected = sum(w * v for w, v in zip(weights, values, strict=True))
        torch.testing.assert_close(shadow(ema, "p"), expected, rtol=1e-12, atol=1e-14)


def test_a_constant_is_its_own_average() -> None:
    p = nn.Parameter(torch.randn(100))
    ema = tracking({"p": p}, 0.999, warmup=True)
    for _ in range(10):
        ema.update()
    assert torch.equal(shadow(ema, "p"), p)


def test_the_average_comes_as_near_as_the_decay_says() -> None:
    p = parameter(0.0)
    ema = tracking({"p": p}, 0.9)
    put(p, 1.0)
    for _ in range(10):
        ema.update()
    assert shadow(ema, "p").item() == pytest.approx(1 - 0.9**10, rel=1e-6)


def test_tracking_starts_from_the_present_values() -> None:
    """B5: averages built before the weights were loaded held the random initialisation."""
    p = parameter(1.0, 2.0)
    ema = EMA()
    put(p, 5.0, 6.0)
    ema.track({"p": p})
    assert shadow(ema, "p").tolist() == [5.0, 6.0]
    ema.update()
    put(p, 7.0, 8.0)
    ema.track({"p": p})
    assert shadow(ema, "p").tolist() == [7.0, 8.0]
    assert ema.num_updates == 0


@pytest.mark.parametrize("decay", [-0.1, 1.0, 2.0])
def test_a_decay_that_is_no_average_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match=str(decay)):
        EMA(decay)


# --- precision ---


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_small_steps_of_low_precision_parameters_are_not_lost(dtype: torch.dtype) -> None:
    """B4: an update was lost where the dtypes of model and shadow differ."""
    p = parameter(1.0, 1.0, dtype=dtype)
    ema = tracking({"p": p}, 0.9999)
    put(p, 2.0, 0.0)
    for _ in range(100):
        ema.update()
    assert shadow(ema, "p").dtype == torch.float32
    moved = 1 - 0.9999**100  # 0.00995 in steps of 1e-4, where bfloat16 has steps of 8e-3 at 1
    torch.testing.assert_close(shadow(ema, "p"), torch.tensor([1 + moved, 1 - moved]), rtol=1e-5, atol=0)


def test_updates_survive_a_cast_of_the_model() -> None:
    """B4, the other way: the model is cast after the average was started."""
    model = nn.ModuleDict({"net": nn.Linear(2, 2), "ema": EMA(0.5, warmup=False)})
    model["ema"].track(dict(model["net"].named_parameters()))
    before = shadow(model["ema"], "bias")
    model.half()
    put(model["net"].bias, 3.0, 4.0)
    model["ema"].update()
    assert shadow(model["ema"], "bias").dtype == torch.float32
    torch.testing.assert_close(shadow(model["ema"], "bias"), (before + torch.tensor([3.0, 4.0])) / 2)


def test_shadows_follow_the_device_and_keep_their_precision() -> None:
    ema = tracking({"p": parameter(1.0)})
    ema.to(torch.bfloat16)
    assert shadow(ema, "p").dtype == torch.float32
    ema.to("meta", torch.float16)
    assert (shadow(ema, "p").device.type, shadow(ema, "p").dtype) == ("meta", torch.float32)


def test_an_update_never_reads_back_from_the_device() -> None:
    """A meta tensor has no values: whatever would wait for a device fails on it."""
    ps = {
        f"p{i}": nn.Parameter(torch.zeros(3, device="meta", dtype=t)) for i, t in enumerate((torch.float32, torch.half))
    }
    ema = tracking(ps, warmup=True)
    ema.update()
    ema.swap()
    ema.swap()
    ema.reset()
    assert ema.num_updates == 0


# --- names ---


def test_names_can_not_collide() -> None:
    """B3: without their dots `a.bc` and `ab.c` shared a shadow, and a parameter called `decay` replaced the decay."""
    names = ["a.bc", "ab.c", "abc", "decay", "num_updates", "shadow.a.bc", "shadow.num_updates"]
    ps = {name: parameter(float(i)) for i, name in enumerate(names)}
    ema = tracking(ps, decay=0.5)
    ema.update()
    state = ema.state_dict()
    assert len(state) == len(names) + 1
    assert state["num_updates"].item() == 1
    assert [state[f"shadow.{name}"].item() for name in names] == [float(i) for i in range(len(names))]
    twin = tracking({name: parameter(-1.0) for name in names}, decay=0.5)
    twin.load_state_dict(state, strict=True)
    assert all(torch.equal(twin.state_dict()[key], value) for key, value in state.items())
    assert twin.decay == 0.5


def test_keys_are_the_parameters_names_under_a_prefix() -> None:
    model = nn.ModuleDict({"net": nn.Linear(2, 1), "model_ema": EMA()})
    model["model_ema"].track(dict(model.named_parameters()))
    assert list(model.state_dict()) == [
        "net.weight",
        "net.bias",
        "model_ema.num_updates",
        "model_ema.shadow.net.weight",
        "model_ema.shadow.net.bias",
    ]
    assert not list(model["model_ema"].parameters())


# --- what is trained changes ---


def test_freezing_and_unfreezing_later_do_no_harm() -> None:
    """B7: a parameter frozen later was an AssertionError, one unfrozen later a KeyError."""
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    ema = tracking({name: p for name, p in model.named_parameters() if p.requires_grad}, 0.5)
    model.weight.requires_grad_(False)
    model.bias.requires_grad_(True)
    with torch.no_grad():
        model.weight.fill_(1.0)
    for _ in range(40):
        ema.update()
    torch.testing.assert_close(shadow(ema, "weight"), model.weight.detach())  # runs into the constant
    assert "shadow.bias" not in ema.state_dict()  # until tracked again
    ema.track(dict(model.named_parameters()))
    assert torch.equal(shadow(ema, "bias"), model.bias)


@pytest.mark.parametrize("warmup", [True, False])
def test_reset_starts_afresh_and_leaves_the_warm_up_as_configured(warmup: bool) -> None:
    """B8: `reset_num_updates` turned the warm-up on even where it was disabled."""
    p = parameter(0.0)
    ema = tracking({"p": p}, 0.9, warmup)
    for value in (1.0, 2.0, 3.0):
        put(p, value)
        ema.update()
    ema.reset()
    assert shadow(ema, "p").item() == 3.0
    put(p, 4.0)
    ema.update()
    d = 2 / 11 if warmup else 0.9
    assert shadow(ema, "p").item() == pytest.approx(d * 3 + (1 - d) * 4, rel=1e-6)


def test_tied_weights_are_one_parameter() -> None:
    p = parameter(1.0)
    ema = tracking({"embed": p, "head": p}, 0.5)
    put(p, 3.0)
    ema.update()
    ema.swap()
    assert p.item() == 2.0
    ema.swap()
    assert p.item() == 3.0
    assert list(ema.state_dict()) == ["num_updates", "shadow.embed"]


def test_nothing_to_average_is_refused() -> None:
    with pytest.raises(ValueError, match="no parameter to average"):
        EMA().track({})
    for action in ("update", "reset", "swap"):
        with pytest.raises(RuntimeError, match=f"cannot {action} before"):
            getattr(EMA(), action)()


# --- the swap ---


def test_a_swap_exchanges_storages_and_a_second_one_restores_them() -> None:
    """B8: after the first image log a full copy of the weights stayed in memory."""
    p = nn.Parameter(torch.randn(8))
    ema = tracking({"p": p}, 0.5)
    put(p, *range(8))
    ema.update()
    live, average = p.detach().clone(), shadow(ema, "p")
    storages = {p.data_ptr(), ema.state_dict()["shadow.p"].data_ptr()}
    live_storage = p.data_ptr()
    ema.swap()
    assert ema.swapped
    assert torch.equal(p, average)
    assert {p.data_ptr()} == storages - {live_storage}  # the shadow's own memory: nothing was copied
    ema.swap()
    assert not ema.swapped
    assert torch.equal(p, live)
    assert p.data_ptr() == live_storage
    assert torch.equal(shadow(ema, "p"), average)
    assert {p.data_ptr(), ema.state_dict()["shadow.p"].data_ptr()} == storages


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_swap_of_low_precision_parameters_is_exact_too(dtype: torch.dtype) -> None:
    p = nn.Parameter(torch.randn(64).to(dtype))
    ema = tracking({"p": p}, 0.9)
    put(p, *torch.randn(64).tolist())
    ema.update()
    live, average, storage = p.detach().clone(), shadow(ema, "p"), p.data_ptr()
    ema.swap()
    assert p.dtype == dtype
    assert torch.equal(p, average.to(dtype))
    ema.swap()
    assert torch.equal(p, live)
    assert p.data_ptr() == storage
    assert torch.equal(shadow(ema, "p"), average)  # not rounded on the way


def test_swaps_do_not_change_the_training() -> None:
    """The optimizer's state hangs on the Parameter objects, which stay."""

    def train(swap: bool) -> Tensor:
        torch.manual_seed(0)
        model = nn.Linear(3, 3)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        ema = tracking(dict(model.named_parameters()), 0.9)
        for _ in range(5):
            optimizer.zero_grad()
            model(torch.ones(2, 3)).square().sum().backward()
            if swap:  # between backward and step, the worst place
                ema.swap()
                model(torch.ones(2, 3))
                ema.swap()
            optimizer.step()
            ema.update()
        return torch.cat([p.flatten() for p in (*model.parameters(), *ema.state_dict().values())])

    assert torch.equal(train(swap=True), train(swap=False))


def test_while_swapped_nothing_can_mix_up_the_weights() -> None:
    model = nn.ModuleDict({"net": nn.Linear(2, 2), "ema": EMA()})
    ema = model["ema"]
    ema.track(dict(model["net"].named_parameters()))
    state = model.state_dict()
    ema.swap()
    actions = [
        ema.update,
        ema.reset,
        lambda: ema.track(dict(model["net"].named_parameters())),
        model.state_dict,  # would save the averages as the live weights
        lambda: model.load_state_dict(state),
        lambda: ema.to(torch.float64),
    ]
    for action in actions:
        with pytest.raises(RuntimeError, match="swapped in"):
            action()
    ema.swap()
    model.load_state_dict(state)


# --- the state ---


def started(values: tuple[float, ...] = (1.0, 2.0), steps: int = 3) -> tuple[nn.Parameter, EMA]:
    p = parameter(*values)
    ema = tracking({"net.p": p}, 0.9, warmup=True)
    for _ in range(steps):
        put(p, *(2 * v for v in p.tolist()))
        ema.update()
    return p, ema


def test_a_restored_average_goes_on_as_if_nothing_had_happened() -> None:
    p, ema = started()
    q = nn.Parameter(p.detach().clone())
    twin = tracking({"net.p": q}, 0.9, warmup=True)
    twin.load_state_dict(ema.state_dict())
    put(p, 0.0, 1.0)
    put(q, 0.0, 1.0)
    ema.update()
    twin.update()
    assert twin.num_updates == ema.num_updates == 4
    assert torch.equal(shadow(ema, "net.p"), shadow(twin, "net.p"))


def test_a_state_can_be_loaded_before_the_parameters_are_known() -> None:
    p, ema = started()
    twin = EMA(0.9)
    twin.load_state_dict(ema.state_dict(), strict=True)
    assert torch.equal(shadow(twin, "net.p"), shadow(ema, "net.p"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        twin.track({"net.p": p})
    assert twin.num_updates == 3
    assert torch.equal(shadow(twin, "net.p"), shadow(ema, "net.p"))
    twin.track({"net.p": p})  # taken up once; from now on it starts afresh
    assert twin.num_updates == 0
    assert torch.equal(shadow(twin, "net.p"), p)


def test_a_state_of_other_parameters_is_taken_up_as_far_as_it_goes_and_said() -> None:
    p, ema = started()
    twin = EMA(0.9)
    twin.load_state_dict({**ema.state_dict(), "shadow.gone": torch.zeros(1)})
    fresh = parameter(5.0)
    with pytest.warns(UserWarning, match=r"1 start from their present values.*'fresh'.*1 are dropped.*'gone'"):
        twin.track({"net.p": p, "fresh": fresh})
    assert torch.equal(shadow(twin, "net.p"), shadow(ema, "net.p"))
    assert torch.equal(shadow(twin, "fresh"), fresh)
    other = EMA()
    other.load_state_dict(ema.state_dict())
    with pytest.raises(ValueError, match=r"'net.p' has shape \(2,\), the parameter \(3,\)"):
        other.track({"net.p": parameter(1.0, 2.0, 3.0)})


def test_strict_loading_reports_what_does_not_fit() -> None:
    model = nn.ModuleDict({"ema": tracking({"a.b": parameter(1.0), "c": parameter(2.0)})})
    state = {"ema.shadow.a.b": torch.zeros(1), "ema.shadow.d": torch.zeros(1), "ema.decay": torch.zeros(1)}
    with pytest.raises(RuntimeError):
        model.load_state_dict(state, strict=True)
    keys = model.load_state_dict(state, strict=False)
    assert sorted(keys.missing_keys) == ["ema.num_updates", "ema.shadow.c"]
    assert sorted(keys.unexpected_keys) == ["ema.decay", "ema.shadow.d"]
    with pytest.raises(RuntimeError, match=r"size mismatch for ema.shadow.c: \(2,\) in the checkpoint, \(1,\)"):
        model.load_state_dict({"ema.shadow.c": torch.zeros(2)}, strict=False)


def test_weights_without_an_average_leave_it_alone() -> None:
    _, ema = started()
    before = shadow(ema, "net.p")
    ema.load_state_dict({}, strict=False)
    assert ema.num_updates == 3
    assert torch.equal(shadow(ema, "net.p"), before)


def test_a_loaded_state_is_a_copy() -> None:
    p, ema = started()
    before = shadow(ema, "net.p")
    untracked, tracked = EMA(0.5), tracking({"net.p": p}, 0.5)
    for twin in (untracked, tracked):
        twin.load_state_dict(ema.state_dict())
    ema.update()
    assert not torch.equal(shadow(ema, "net.p"), before)
    assert torch.equal(shadow(untracked, "net.p"), before)
    assert torch.equal(shadow(tracked, "net.p"), before)


def test_a_copied_model_averages_its_own_parameters() -> None:
    model = nn.ModuleDict({"net": nn.Linear(2, 2), "ema": EMA(0.5, warmup=False)})
    model["ema"].track(dict(model["net"].named_parameters()))
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin["net"].bias.fill_(4.0)
    twin["ema"].update()
    model["ema"].update()
    torch.testing.assert_close(shadow(twin["ema"], "bias"), (model["net"].bias.detach() + 4) / 2)
    assert torch.equal(shadow(model["ema"], "bias"), model["net"].bias)


# --- buffers ---


def test_running_statistics_stay_those_of_training() -> None:
    """B8: they are no weights. An average of them is not what the averaged weights would measure, so none is kept."""
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    ema = tracking(dict(model.named_parameters()), 0.5)
    model(torch.randn(8, 2))
    put(model[1].weight, 3.0, 3.0)
    ema.update()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    assert before["1.num_batches_tracked"] == 1
    ema.swap()
    assert model[1].weight.tolist() == [2.0, 2.0]
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    ema.swap()
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    assert not [key for key in ema.state_dict() if "running" in key]
