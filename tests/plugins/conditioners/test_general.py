"""The conditioner of any embedders: routing, joining, drops, the unconditional state, frozen embedders."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn

from sgm_core.conditioning import Conditioning
from sgm_core.slots import EmbedderSlot
from sgm_plugins.conditioners.general import GeneralConditioner
from sgm_plugins.discretizations import LegacyDDPMDiscretization
from sgm_plugins.embedders.classes import ClassEmbedder
from sgm_plugins.embedders.gaussian_encoder import GaussianEncoderEmbedder
from sgm_plugins.embedders.low_scale import LowScaleEmbedder
from sgm_plugins.embedders.spatial_rescaler import SpatialRescaler
from sgm_plugins.embedders.timestep import TimestepEmbedder
from sgm_plugins.embedders.video_prediction import VideoPredictionEmbedder
from sgm_plugins.first_stages.identity import IdentityFirstStage
from sgm_plugins.sigma_samplers import EDMSigmaSampler


class Pass(nn.Module):
    """Gives its entry, or its entries as several outputs."""

    def forward(self, *entries: Tensor) -> Any:
        return entries[0] if len(entries) == 1 else list(entries)


class Table(nn.Module):
    """A row for each label."""

    def __init__(self, n: int = 10, d: int = 4) -> None:
        super().__init__()
        self.embedding = nn.Embedding(n, d)
        self.dropout = nn.Dropout(0.5)

    def forward(self, labels: Tensor) -> Tensor:
        return self.dropout(self.embedding(labels))


class Lengths(nn.Module):
    """The length of each string as tokens and as a vector, as a text tower gives its pooled state too."""

    def forward(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        lengths = torch.tensor([[float(len(text))] for text in texts])
        return lengths[:, None].expand(-1, 3, 2), lengths

    def check(self, texts: list[str]) -> None:
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("texts are strings")


class Fails(nn.Module):
    def forward(self, entry: Any) -> Tensor:
        raise ValueError("no such prompt")


def conditioner(*slots: EmbedderSlot) -> GeneralConditioner:
    return GeneralConditioner(list(slots))


def passing(key: str, **settings: Any) -> EmbedderSlot:
    return EmbedderSlot(Pass(), input_key=key, **settings)


# --- routing ---


@pytest.mark.parametrize(
    ("shape", "name"),
    [((2, 3), "vector"), ((2, 3, 4), "crossattn"), ((2, 3, 4, 4), "concat"), ((2, 3, 2, 4, 4), "concat")],
)
def test_an_output_goes_where_its_rank_says(shape: tuple[int, ...], name: str) -> None:
    x = torch.randn(shape)
    c = conditioner(passing("x"))({"x": x})
    assert torch.equal(getattr(c, name), x)
    assert sum(part is not None for part in (c.vector, c.crossattn, c.concat)) == 1
    assert c.extras == {}


def test_outputs_of_one_name_are_joined_in_the_order_of_the_slots() -> None:
    shapes = {"v1": (2, 3), "v2": (2, 1), "t1": (2, 5, 3), "t2": (2, 5, 2), "m1": (2, 1, 4, 4), "m2": (2, 3, 4, 4)}
    batch = {key: torch.randn(shape) for key, shape in shapes.items()}
    c = conditioner(*(passing(key) for key in ("m2", "v1", "t1", "v2", "m1", "t2")))(batch)
    assert torch.equal(c.vector, torch.cat([batch["v1"], batch["v2"]], 1))
    assert torch.equal(c.crossattn, torch.cat([batch["t1"], batch["t2"]], 2))
    assert torch.equal(c.concat, torch.cat([batch["m2"], batch["m1"]], 1))


def test_several_outputs_of_a_slot_are_routed_each() -> None:
    batch = {"a": torch.randn(2, 4, 3), "b": torch.randn(2, 5)}
    c = conditioner(EmbedderSlot(Pass(), input_keys=["a", "b"]))(batch)
    assert torch.equal(c.crossattn, batch["a"])
    assert torch.equal(c.vector, batch["b"])


def test_a_slot_can_send_its_output_elsewhere() -> None:
    batch = {"x": torch.randn(2, 3, 4), "v1": torch.randn(2, 5), "v2": torch.randn(2, 6), "lone": torch.randn(2)}
    c = conditioner(
        passing("x", output="concat"),
        passing("v1", output="cond_view"),
        passing("v2", output="cond_view"),
        passing("lone", output="cond_motion"),
    )(batch)
    assert torch.equal(c.concat, batch["x"])
    assert c.crossattn is None
    assert c.extras.keys() == {"cond_view", "cond_motion"}
    assert torch.equal(c.extras["cond_view"], torch.cat([batch["v1"], batch["v2"]], 1))
    assert torch.equal(c.extras["cond_motion"], batch["lone"])


def test_no_embedders_give_an_empty_conditioning() -> None:
    assert conditioner()({"image": torch.zeros(2)}) == Conditioning()
    assert conditioner().unconditional({}) == Conditioning()


@pytest.mark.parametrize(
    ("settings", "shape", "says"),
    [
        ({}, (2,), r"float32 tensor \(2,\), and rank 1 goes nowhere"),
        ({}, (2, 1, 1, 1, 1, 1), "rank 6"),
        ({"output": "vector"}, (2, 3, 4), "needs rank 2"),
        ({"output": "crossattn"}, (2, 3), "needs rank 3"),
        ({"output": "concat"}, (2,), "rank 2 or more"),
    ],
)
def test_an_output_that_fits_nowhere_names_its_slot(settings: Any, shape: tuple[int, ...], says: str) -> None:
    model = conditioner(passing("fine"), passing("x", **settings))
    with pytest.raises(ValueError, match=rf"^conditioner\.embedders\[1\] \(Pass\): .*{says}"):
        model({"fine": torch.zeros(2, 3), "x": torch.zeros(shape)})


@pytest.mark.parametrize(
    ("first", "second"),
    [((2, 4, 3), (2, 5, 3)), ((2, 3), (4, 3)), ((2, 3, 4, 4), (2, 3, 8, 8)), ((2, 3, 4, 4), (2, 3, 2, 4, 4))],
)
def test_outputs_that_can_not_be_joined_name_both_slots(first: tuple[int, ...], second: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"embedders\[1\] \(Pass\).* cannot be joined .*embedders\[0\] \(Pass\)"):
        conditioner(passing("a"), passing("b"))({"a": torch.zeros(first), "b": torch.zeros(second)})


def test_an_output_that_is_no_tensor_names_its_slot() -> None:
    with pytest.raises(ValueError, match=r"^conditioner\.embedders\[0\] \(Pass\): its output is a str"):
        conditioner(passing("x"))({"x": "text"})


def test_a_missing_entry_names_its_slot_and_what_there_is() -> None:
    model = conditioner(passing("vec"), passing("caption"))
    batch = {"vec": torch.zeros(1, 1), "captions": [""]}
    for call in (model, model.unconditional, model.check):
        with pytest.raises(ValueError, match=r"embedders\[1\] \(Pass\).*'caption'.*mean 'captions'.*captions, vec"):
            call(batch)


# --- the batch ---


def test_input_keys_are_in_order_and_unique() -> None:
    """B43: the reference passed them through a set, in another order in each process."""
    model = conditioner(passing("txt"), EmbedderSlot(Pass(), input_keys=["size", "txt", "crop"]), passing("cls"))
    assert model.input_keys == ("txt", "size", "crop", "cls")


def test_check_names_the_slot_that_refuses() -> None:
    model = conditioner(passing("x"), EmbedderSlot(Lengths(), input_key="txt", ucg_rate=0.1, ucg_value=""))
    model.check({"x": torch.zeros(2, 3), "txt": ["a", "b"]})
    with pytest.raises(ValueError, match=r"^conditioner\.embedders\[1\] \(Lengths\): texts are strings"):
        model.check({"x": torch.zeros(2, 3), "txt": ["a", 3]})


def test_the_batch_stays_as_it_is() -> None:
    """B23: the reference blanked the caller's prompts and labels, so a second slot on a key dropped again on top."""
    model = conditioner(
        EmbedderSlot(Lengths(), input_key="txt", ucg_rate=1.0, ucg_value=""),
        EmbedderSlot(Lengths(), input_key="txt"),
        EmbedderSlot(Table(), input_key="cls", ucg_rate=1.0, ucg_value=9),
        passing("x", ucg_rate=1.0),
    )
    batch = {"txt": ["cat", "horse"], "cls": torch.tensor([1, 2]), "x": torch.ones(2, 3)}
    before = copy.deepcopy(batch)
    c = model(batch)
    model.unconditional(batch)
    assert batch["txt"] == before["txt"]
    assert torch.equal(batch["cls"], before["cls"])
    assert torch.equal(batch["x"], before["x"])
    assert batch.keys() == before.keys()
    assert c.vector[:, :2].tolist() == [[0.0, 3.0], [0.0, 5.0]]  # the second slot saw the prompts


# --- drops ---


def test_all_outputs_of_a_slot_drop_together() -> None:
    """B20: the reference dropped the tokens and the pooled vector of one encoder independently."""
    model = conditioner(EmbedderSlot(Lengths(), input_key="txt", ucg_rate=0.5))
    c = model({"txt": ["prompt"] * 256}, generator=torch.Generator().manual_seed(0))
    tokens, pooled = c.crossattn[:, 0, 0] != 0, c.vector[:, 0] != 0
    assert torch.equal(tokens, pooled)
    assert 0 < pooled.sum() < 256


def test_slots_drop_one_draw_each_in_their_order() -> None:
    """B23: the reference drew from a state of numpy that had no seed and was in no checkpoint."""
    rates = {"a": 0.4, "b": 0.0, "c": 0.3}
    model = conditioner(*(passing(key, ucg_rate=rate) for key, rate in rates.items()))
    batch = {key: torch.ones(50, 1) for key in rates}
    c = model(batch, generator=torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    a = torch.bernoulli((1 - 0.4) * torch.ones(50), generator=generator)
    b = torch.bernoulli((1 - 0.3) * torch.ones(50), generator=generator)
    assert torch.equal(c.vector, torch.stack([a, torch.ones(50), b], 1))
    torch.manual_seed(3)
    assert torch.equal(model(batch).vector, c.vector)  # the global state where there is no generator
    assert torch.equal(model(batch, drop=False).vector, torch.ones(50, 3))


def group(n: int, rate: float) -> tuple[dict[str, Tensor], list[EmbedderSlot]]:
    """n samples of ones, and slots that read them and drop together: vector, tokens, and a map with a value."""
    slots = [
        EmbedderSlot(Pass(), input_key="vector", ucg_rate=rate, drop_group="text"),
        EmbedderSlot(Pass(), input_key="tokens", ucg_rate=rate, drop_group="text"),
        EmbedderSlot(Pass(), input_key="map", ucg_rate=rate, ucg_value=0.0, drop_group="text"),
    ]
    return {"vector": torch.ones(n, 1), "tokens": torch.ones(n, 1, 1), "map": torch.ones(n, 1, 1, 1)}, slots


def test_slots_of_a_group_share_one_draw_in_the_place_of_the_first() -> None:
    batch, slots = group(50, 0.3)
    batch |= {"a": torch.ones(50, 1), "b": torch.ones(50, 1)}
    slots = [passing("a", ucg_rate=0.4), slots[0], passing("b", ucg_rate=0.2), *slots[1:]]
    given, generator = (torch.Generator().manual_seed(3) for _ in range(2))
    c = conditioner(*slots)(batch, generator=given)
    a, grouped, b = (torch.bernoulli((1 - rate) * torch.ones(50), generator=generator) for rate in (0.4, 0.3, 0.2))
    assert torch.equal(c.vector, torch.stack([a, grouped, b], 1))
    assert torch.equal(c.crossattn.flatten(), grouped)
    assert torch.equal(c.concat.flatten(), grouped)
    assert torch.equal(given.get_state(), generator.get_state())  # nothing more was drawn


def test_a_sample_loses_all_of_a_group_at_the_rate_that_was_asked_for() -> None:
    """B20: with a draw for each, the empty condition that guidance uses had the rate p^3, 0.001 in place of 0.1."""
    n, rate = 20_000, 0.1
    batch, slots = group(n, rate)

    def all_empty(slots: list[EmbedderSlot]) -> float:
        c = conditioner(*slots)(batch, generator=torch.Generator().manual_seed(0))
        present = torch.cat([c.vector, c.crossattn.flatten(1), c.concat.flatten(1)], 1).sum(1)
        return present.eq(0).float().mean().item()

    assert abs(all_empty(slots) - rate) < 5 * (rate * (1 - rate) / n) ** 0.5  # 5 standard deviations
    apart = [dataclasses.replace(slot, drop_group=None) for slot in slots]
    assert all_empty(apart) < 0.003


def test_groups_of_another_name_drop_independently() -> None:
    batch, slots = group(200, 0.5)
    slots[1] = dataclasses.replace(slots[1], drop_group="other")
    c = conditioner(*slots)(batch, generator=torch.Generator().manual_seed(0))
    assert torch.equal(c.vector.flatten(), c.concat.flatten())
    assert not torch.equal(c.vector.flatten(), c.crossattn.flatten())


def test_slots_of_a_group_have_one_rate() -> None:
    slots = [passing("a", ucg_rate=0.1, drop_group="g"), passing("b"), passing("c", ucg_rate=0.2, drop_group="g")]
    with pytest.raises(
        ValueError, match=r"embedders\[2\] \(Pass\) has ucg_rate 0\.2 and .*embedders\[0\] \(Pass\) has 0\.1.*'g'"
    ):
        conditioner(*slots)


def test_entries_of_a_group_have_one_row_for_each_sample() -> None:
    batch, slots = group(4, 0.5)
    model = conditioner(*slots)
    model.check(batch)
    for call in (model, model.check):
        with pytest.raises(ValueError, match=r"embedders\[0\] \(Pass\): .*4 and 8 samples"):
            call({**batch, "tokens": torch.ones(8, 1, 1)})
    never = [dataclasses.replace(slot, ucg_rate=0.0) for slot in slots]
    conditioner(*never).check({**batch, "tokens": torch.ones(8, 1, 1)})


def test_a_list_and_a_tensor_drop_together_wherever_the_tensor_is() -> None:
    """The draw is on the CPU then: reading it back from a device for the list would wait for that device."""
    model = conditioner(
        EmbedderSlot(Pass(), input_key="x", ucg_rate=0.5, drop_group="g"),
        EmbedderSlot(Lengths(), input_key="txt", ucg_rate=0.5, ucg_value="", drop_group="g"),
    )
    texts = {"txt": ["prompt"] * 64}
    c = model({"x": torch.ones(64, 1, 1, 1, device="meta"), **texts}, generator=torch.Generator().manual_seed(0))
    here = model({"x": torch.ones(64, 1, 1, 1), **texts}, generator=torch.Generator().manual_seed(0))
    assert torch.equal(6 * here.concat.flatten(), here.vector.flatten())
    assert torch.equal(c.vector, here.vector)


def test_a_dropped_sample_embeds_the_value_of_its_slot() -> None:
    table = Table()
    model = conditioner(EmbedderSlot(table, input_key="cls", ucg_rate=0.5, ucg_value=9))
    labels = torch.arange(8)
    c = model({"cls": labels}, generator=torch.Generator().manual_seed(1))
    keep = torch.bernoulli(0.5 * torch.ones(8), generator=torch.Generator().manual_seed(1)).bool()
    assert keep.any()
    assert not keep.all()
    assert torch.equal(c.vector, table.embedding.weight[torch.where(keep, labels, 9)])


def test_a_dropped_sample_gives_no_gradient() -> None:
    model = conditioner(EmbedderSlot(nn.Embedding(4, 2), input_key="cls", trainable=True, ucg_rate=0.5))
    c = model({"cls": torch.arange(4)}, generator=torch.Generator().manual_seed(2))
    c.vector.sum().backward()
    kept = torch.bernoulli(0.5 * torch.ones(4), generator=torch.Generator().manual_seed(2))
    assert torch.equal(model.embedders[0].weight.grad, kept[:, None].expand(4, 2))


# --- forced zeros, the unconditional state ---


def test_forced_zeros_reach_slots_of_several_keys() -> None:
    """B21: the reference never matched embedders declared with `input_keys`."""
    model = conditioner(EmbedderSlot(Pass(), input_keys=["a", "b"]), passing("c"))
    batch = {"a": torch.ones(2, 4, 3), "b": torch.ones(2, 5), "c": torch.ones(2, 1)}
    c = model(batch, force_zero=["b"])
    assert c.crossattn.eq(0).all()
    assert torch.equal(c.vector, torch.tensor([[0.0] * 5 + [1.0]] * 2))


def test_an_unknown_key_to_zero_is_refused() -> None:
    with pytest.raises(ValueError, match=r"force_zero names 'text'.*Did you mean 'txt'.*cls, txt"):
        conditioner(passing("cls"), passing("txt"))({"cls": torch.ones(1, 1)}, force_zero=["text"])


def test_unconditional_is_what_a_full_drop_gives() -> None:
    slots = [
        EmbedderSlot(Lengths(), input_key="txt", ucg_rate=0.1, ucg_value="ab"),
        passing("vec", ucg_rate=0.1),
        passing("size"),
    ]
    batch = {"txt": ["prompt", "other"], "vec": torch.ones(2, 2), "size": torch.tensor([[7.0], [8.0]])}
    uncond = conditioner(*slots).unconditional(batch)
    dropped = conditioner(
        EmbedderSlot(Lengths(), input_key="txt", ucg_rate=1.0, ucg_value="ab"),
        passing("vec", ucg_rate=1.0),
        passing("size"),
    )(batch)
    # length of the value, zeros, and the size that is never dropped
    assert uncond.vector.tolist() == [[2.0, 0.0, 0.0, 7.0], [2.0, 0.0, 0.0, 8.0]]
    assert torch.equal(uncond.vector, dropped.vector)
    assert torch.equal(uncond.crossattn, dropped.crossattn)


def test_a_value_without_a_rate_is_the_unconditional_state() -> None:
    model = conditioner(EmbedderSlot(Lengths(), input_key="txt", ucg_value=""), passing("size"))
    uncond = model.unconditional({"txt": ["prompt"], "size": torch.tensor([[7.0]])})
    assert uncond.vector.tolist() == [[0.0, 7.0]]


def test_where_nothing_drops_unconditional_is_all_zeros() -> None:
    uncond = conditioner(passing("a"), passing("b")).unconditional({"a": torch.ones(2, 3), "b": torch.ones(2, 4, 5)})
    assert uncond.vector.eq(0).all()
    assert uncond.crossattn.eq(0).all()


def test_the_unconditional_half_may_be_another_batch_with_zeros_of_its_own() -> None:
    """As `get_unconditional_conditioning(batch, negative, force_uc_zero, force_zero)`: two calls, and no state."""
    model = conditioner(
        EmbedderSlot(Lengths(), input_key="txt", ucg_rate=0.5),
        passing("size", ucg_rate=0.5),
        EmbedderSlot(Pass(), input_keys=["a", "b"]),
    )
    entries = {"size": torch.tensor([[7.0]]), "a": torch.ones(1, 1), "b": torch.ones(1, 2)}
    batch, negative = {"txt": ["prompt"], **entries}, {"txt": ["bad"], **entries}
    cond = model(batch, drop=False, force_zero=["size"])
    away = model(negative, drop=False, force_zero=["a"])
    assert cond.vector.tolist() == [[6.0, 0.0, 1.0, 1.0, 1.0]]
    assert away.vector.tolist() == [[3.0, 7.0, 0.0, 0.0, 0.0]]
    assert away.crossattn.eq(3).all()


def test_the_unconditional_state_of_another_batch_keeps_what_is_never_dropped_of_it() -> None:
    model = conditioner(EmbedderSlot(Lengths(), input_key="txt", ucg_rate=0.1), passing("size"))
    assert model.unconditional({"txt": ["bad"], "size": torch.tensor([[9.0]])}).vector.tolist() == [[0.0, 9.0]]


def test_a_slot_can_hand_a_batch_entry_to_the_network_as_it_is() -> None:
    """What the reference's loss does with `batch2model_keys`, for tensors."""
    images = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    model = conditioner(
        EmbedderSlot(Table(), input_key="cls", ucg_rate=0.5),
        passing("image_only_indicator", output="image_only_indicator"),
    )
    batch = {"cls": torch.tensor([1, 2]), "image_only_indicator": images}
    for c in (model(batch), model.unconditional(batch)):
        assert torch.equal(c.extras["image_only_indicator"], images)


def test_an_embedder_that_raises_leaves_the_drops_as_they_were() -> None:
    """B21: in the reference an error in the unconditional pass left every drop rate at zero for ever."""
    model = conditioner(passing("x", ucg_rate=0.5), EmbedderSlot(Fails(), input_key="txt", ucg_rate=0.5))
    batch = {"x": torch.ones(64, 1), "txt": ["a"] * 64}
    with pytest.raises(ValueError, match=r"^conditioner\.embedders\[1\] \(Fails\): no such prompt"):
        model.unconditional(batch)
    model.embedders[1] = Lengths()
    c = model(batch, generator=torch.Generator().manual_seed(0))
    expected = torch.bernoulli(0.5 * torch.ones(64), generator=torch.Generator().manual_seed(0))
    assert torch.equal(c.vector[:, 0], expected)


def test_conditioning_never_reads_a_tensor_back_from_its_device() -> None:
    """A meta tensor has no values: whatever would wait for a device fails on it."""
    model = conditioner(
        EmbedderSlot(Table(), input_key="cls", trainable=True, ucg_rate=0.5, ucg_value=9),
        EmbedderSlot(Pass(), input_keys=["tokens", "map"], ucg_rate=0.5),
    ).to("meta")
    batch = {
        "cls": torch.zeros(4, dtype=torch.int64, device="meta"),
        "tokens": torch.zeros(4, 2, 3, device="meta"),
        "map": torch.zeros(4, 1, 8, 8, device="meta"),
    }
    for c in (model(batch), model(batch, force_zero=["map"]), model.unconditional(batch)):
        assert {c.vector.device.type, c.crossattn.device.type, c.concat.device.type} == {"meta"}


@pytest.mark.parametrize(
    ("cls", "params", "entry"),
    [
        (ClassEmbedder, {"embed_dim": 4}, torch.zeros(2, dtype=torch.int64)),
        (TimestepEmbedder, {"outdim": 4}, torch.zeros(2, 2)),
        (SpatialRescaler, {"out_channels": 2}, torch.zeros(2, 3, 4, 4)),
        (GaussianEncoderEmbedder, {"encoder": nn.Conv2d(3, 4, 1)}, torch.zeros(2, 3, 4, 4)),
        (
            LowScaleEmbedder,
            {"first_stage": IdentityFirstStage(), "discretization": LegacyDDPMDiscretization()},
            torch.zeros(2, 3, 4, 4),
        ),
        (
            VideoPredictionEmbedder,
            {
                "encoder": IdentityFirstStage(),
                "sigma_sampler": EDMSigmaSampler(),
                "sigma_embedder": TimestepEmbedder(4),
                "n_copies": 2,
            },
            torch.zeros(2, 3, 4, 4),
        ),
    ],
)
def test_an_embedder_follows_its_model_to_another_device(cls: Any, params: dict[str, Any], entry: Tensor) -> None:
    """B25: the reference's kept the device of their construction. A meta tensor cannot be read back either."""
    model = conditioner(EmbedderSlot(cls(**params), input_key="x", ucg_rate=0.5)).to("meta")
    for c in (model({"x": entry.to("meta")}), model.unconditional({"x": entry.to("meta")})):
        parts = [part for part in (c.vector, c.crossattn, c.concat) if part is not None]
        assert parts
        assert all(part.device.type == "meta" for part in parts)


# --- the modules ---


def test_state_dict_keys_are_the_embedders_own() -> None:
    model = conditioner(
        passing("x"), EmbedderSlot(Table(), input_key="a"), EmbedderSlot(nn.Linear(2, 2), input_key="b")
    )
    assert list(model.state_dict()) == [
        "embedders.1.embedding.weight",
        "embedders.2.weight",
        "embedders.2.bias",
    ]
    assert type(model.embedders) is nn.ModuleList


def test_frozen_embedders_stay_in_eval_whoever_calls_train() -> None:
    model = conditioner(EmbedderSlot(Table(), input_key="a"), EmbedderSlot(Table(), input_key="b", trainable=True))
    parent = nn.Sequential(nn.Sequential(model))
    for mode in (True, False, True):
        parent.train(mode)
        frozen, trained = model.embedders
        assert not any(m.training for m in frozen.modules())
        assert all(m.training is mode for m in trained.modules())
    labels = torch.arange(10)
    c = model({"a": labels, "b": labels})
    assert torch.equal(c.vector[:, :4], frozen.embedding.weight)  # no dropout


class _Fit(pl.LightningModule):
    """Fits a target with a frozen and a trained embedder; notes the modes that it meets."""

    def __init__(self, model: GeneralConditioner) -> None:
        super().__init__()
        self.conditioner = model
        self.modes: list[tuple[bool, bool]] = []

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        self.modes.append((self.conditioner.embedders[0].training, self.conditioner.embedders[1].training))
        return self.conditioner({"a": batch[0], "b": batch[0]}).vector.square().mean()

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        assert not any(embedder.training for embedder in self.conditioner.embedders)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_frozen_stays_frozen_through_a_lightning_fit_with_validation() -> None:
    model = conditioner(EmbedderSlot(Table(), input_key="a"), EmbedderSlot(Table(), input_key="b", trainable=True))
    before = [embedder.embedding.weight.detach().clone() for embedder in model.embedders]
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.arange(4)), batch_size=2)
    module = _Fit(model).train()
    trainer = pl.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, data, data)
    assert module.modes == [(False, True)] * 4
    assert torch.equal(model.embedders[0].embedding.weight, before[0])
    assert not torch.equal(model.embedders[1].embedding.weight, before[1])


def test_frozen_embedders_move_and_are_saved() -> None:
    model = conditioner(EmbedderSlot(Table(), input_key="a")).to(torch.float64)
    assert model.embedders[0].embedding.weight.dtype == torch.float64
    other = conditioner(EmbedderSlot(Table(), input_key="a")).double()
    other.load_state_dict(model.state_dict(), strict=True)
    labels = {"a": torch.arange(10)}
    assert torch.equal(other(labels).vector, model(labels).vector)


def test_a_copy_is_independent() -> None:
    model = conditioner(EmbedderSlot(nn.Embedding(4, 2), input_key="a", trainable=True))
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.embedders[0].weight.zero_()
    assert twin({"a": torch.arange(4)}).vector.eq(0).all()
    assert model({"a": torch.arange(4)}).vector.ne(0).any()
