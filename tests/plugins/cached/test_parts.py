"""Cached parts: the same outputs as uncached, computed once, and refused where that cannot be."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import sgm_core as sgm
from sgm_core.checkpoints.restoring import restoring
from sgm_core.errors import SgmError
from sgm_core.slots import EmbedderSlot
from sgm_plugins.cached.digests import carry_over, digests
from sgm_plugins.cached.embedder import CachedEmbedder
from sgm_plugins.cached.first_stage import CachedFirstStage
from sgm_plugins.cached.parts import CacheError, cached_parts
from sgm_plugins.cached.store import CacheWarning

pytestmark = pytest.mark.filterwarnings("ignore::sgm_plugins.cached.store.CacheWarning")

CALLS: list[int] = []
BUILT: list[float] = []


class Words(nn.Module):
    """(b,) strings -> (b, width) and (b, 2, width), from the lengths of the strings."""

    def __init__(self, width: int = 4, fault: str = "") -> None:
        super().__init__()
        self.layer = nn.Linear(1, width)
        self.fault = fault
        BUILT.append(self.layer.bias[0].item())

    def forward(self, texts: list[str]) -> list[Tensor]:
        CALLS.append(len(texts))
        x = torch.tensor([[len(text)] for text in texts], dtype=self.layer.weight.dtype)
        if self.fault == "mean":
            x = x - x.mean(0) * 0.9
        out = self.layer(x)
        if self.fault == "random":
            out = out + 1e-6 * torch.randn_like(out)
        tokens = max(map(len, texts)) if self.fault == "longest" else 2
        return [out, out[:, None].expand(-1, tokens, -1)]

    def check(self, texts: list[str]) -> None:
        if "bad" in texts:
            raise ValueError("'bad' is not a word")


@pytest.fixture(autouse=True)
def words(register, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    register("embedders", "words")(Words)
    CALLS.clear()
    BUILT.clear()


def conditioner(fault: str = "", *, cache: bool = True, **slot):
    slot = {"input_key": "txt", "embedder": {"use": "words", "fault": fault}, "cache": cache} | slot
    return sgm.build("conditioners", {"use": "general", "embedders": [slot]})


def embed(module, *texts: str, **kwargs) -> Tensor:
    return module({"txt": list(texts)}, drop=False, **kwargs).vector


def test_it_is_not_built_before_it_is_needed_and_called_only_with_what_is_new():
    module = conditioner()
    assert not BUILT
    with pytest.warns(CacheWarning, match=r"embedders\[0\].embedder: 3 entries .* Words is built"):
        first = embed(module, "a", "bb", "a")
    assert CALLS == [3, 2, 2]  # once, and twice to see whether it is random
    assert torch.equal(embed(module, "bb", "a", "a"), first[[1, 0, 0]])
    assert len(CALLS) == 3
    embed(module, "a", "ccc")
    assert CALLS[3:] == [2]  # of the whole batch, as without the cache
    embed(module, "ccc")
    assert len(CALLS) == 4


def test_outputs_are_those_without_the_cache_bit_for_bit_whatever_was_drawn_before():
    torch.manual_seed(1)
    plain = conditioner(cache=False)
    torch.manual_seed(2)
    cached = conditioner()
    a, b = (module({"txt": ["a", "bb"]}, drop=False) for module in (plain, cached))
    assert torch.equal(a.vector, b.vector)
    assert torch.equal(a.crossattn, b.crossattn)
    assert not b.vector.requires_grad


def test_building_a_frozen_part_draws_nothing_from_the_random_state_and_a_trainable_one_does():
    def after(**slot) -> Tensor:
        torch.manual_seed(0)
        conditioner(**slot)
        return torch.rand(1)

    torch.manual_seed(0)
    untouched = torch.rand(1)
    assert torch.equal(after(cache=False), untouched)
    assert torch.equal(after(cache=True), untouched)
    assert not torch.equal(after(cache=False, trainable=True), untouched)


def test_computing_draws_nothing_from_the_random_state():
    torch.manual_seed(0)
    untouched = torch.rand(1)
    torch.manual_seed(0)
    module = conditioner()
    embed(module, "a")
    assert torch.equal(torch.rand(1), untouched)


def test_drops_are_the_same_with_zeros_and_with_a_value():
    for slot in ({"ucg_rate": 0.5}, {"ucg_rate": 0.5, "ucg_value": ""}):
        BUILT.clear()
        batch = {"txt": ["a", "bb", "ccc", "dddd"] * 4}
        results = []
        for cache in (False, True, True):
            torch.manual_seed(7)
            module = conditioner(cache=cache, **slot)
            results.append([module(batch).vector, module(batch).vector, module.unconditional(batch).vector])
            if cache:
                module.slots[0].embedder.part.flush()
        for again in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(results[0], again, strict=True))
        assert not torch.equal(results[0][0], results[0][1])
        assert len(BUILT) == 2  # the last one had all of it


def test_the_next_process_finds_what_this_one_wrote():
    module = conditioner()
    embed(module, "a")
    module.slots[0].embedder.part.flush()
    BUILT.clear()
    embed(conditioner(), "a")
    assert not BUILT


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("random", r"conditioner.embedders\[0\] \(Words\): .*it is random"),
        ("mean", r"conditioner.embedders\[0\] \(Words\): .*depends on the others"),
        ("longest", r"conditioner.embedders\[0\] \(Words\): .*depends on the others"),
    ],
)
def test_what_can_not_be_cached_is_refused_with_the_reason(fault, message):
    with pytest.raises(ValueError, match=message):
        embed(conditioner(fault), "a", "ccc", "bb")


def test_outputs_of_several_lengths_are_refused_when_they_meet():
    module = conditioner("longest")
    embed(module, "aa", "bb")
    embed(module, "ccc", "ddd")
    with pytest.raises(ValueError, match="differ in shape between samples"):
        embed(module, "aa", "ccc")


def test_a_trainable_embedder_is_refused_where_it_is_written_and_not_built():
    with pytest.raises(SgmError, match=r"embedders\[0\].*: Words trains, so its outputs change"):
        conditioner(trainable=True)
    assert not BUILT


def test_an_object_that_python_code_made_is_refused():
    slot = EmbedderSlot(CachedEmbedder(Words()), input_key="txt", cache=True)
    with pytest.raises(SgmError, match=r"Words that Python code has made .* sgm.build"):
        slot.embed(slot.module, [["a"]])


def test_python_is_told_of_a_flag_without_the_component():
    with pytest.raises(ValueError, match=r"a Words keeps no outputs: give sgm.build\('embedders', {'use': 'cached'"):
        EmbedderSlot(Words(), input_key="txt", cache=True)


def test_the_flag_is_short_for_the_component(tmp_path):
    long = {"use": "cached", "embedder": {"use": "words", "fault": ""}, "dir": str(tmp_path / "cache")}
    first = embed(conditioner(), "a")
    module = conditioner(embedder=long, cache=False)
    assert module.slots[0].name == "Words"
    assert torch.equal(embed(module, "a"), first)
    for several in (conditioner(), module):
        embed(several, "a")
        several.embedders[0].flush_outputs()
    assert len(list((tmp_path / "cache").glob("words-*"))) == 1
    assert sgm.to_config(module)["embedders"][0]["embedder"] == long
    assert sgm.to_config(conditioner().embedders[0]) == {"use": "cached", "embedder": {"use": "words", "fault": ""}}


def test_an_object_that_sgm_built_is_cached_by_the_weights_that_it_has():
    def slot_of(embedder) -> EmbedderSlot:
        return EmbedderSlot(CachedEmbedder(embedder), input_key="txt", cache=True)

    embedder = sgm.build("embedders", "words")
    slot = slot_of(embedder)
    (before, _) = slot.embed(slot.module, [["a"]])
    slot.embedder.part.flush()
    with torch.no_grad():
        embedder.layer.bias += 1
    other = slot_of(embedder)
    assert torch.allclose(other.embed(other.module, [["a"]])[0], before + 1)


def test_entries_that_the_embedder_refuses_are_refused():
    with pytest.raises(ValueError, match="'bad' is not a word"):
        embed(conditioner(), "bad")


def test_nothing_is_kept_where_a_checkpoint_is_restored(tmp_path):
    with restoring():
        module = conditioner()
    embed(module, "a")
    embed(module, "a")
    assert CALLS == [1, 1]
    assert not (tmp_path / "cache").exists()


def test_each_precision_has_entries_of_its_own():
    module = conditioner()
    exact = embed(module, "a")
    with torch.autocast("cpu", torch.bfloat16):
        rounded = embed(module, "a")
    assert (exact.dtype, rounded.dtype) == (torch.float32, torch.bfloat16)
    assert embed(module, "a").dtype == torch.float32
    assert embed(module.to(torch.float64), "a").dtype == torch.float64


def test_weights_of_a_checkpoint_pass_through_and_are_used():
    plain, cached = conditioner(cache=False), conditioner()
    assert not cached.state_dict()
    before = embed(cached, "a")
    state = {key: value + 1 for key, value in plain.state_dict().items()}
    cached.load_state_dict(state)
    plain.load_state_dict(state)
    assert cached.state_dict().keys() == state.keys()
    assert not torch.equal(embed(cached, "a"), before)  # those of other weights are not taken
    assert torch.equal(embed(cached, "a"), embed(plain, "a"))
    cached.load_state_dict({})
    assert cached.state_dict().keys() == state.keys()


def test_weights_that_do_not_fit_are_an_error_when_the_part_is_built():
    module = conditioner()
    module.load_state_dict({"embedders.0.layer.weight": torch.zeros(9, 9)})
    with pytest.raises(ValueError, match=r"the weights in the checkpoint do not fit Words"):
        embed(module, "a")


def first_stage(**changes):
    config = {"use": "autoencoder_kl_mode", "ch": 32, "ch_mult": [1, 2], "num_res_blocks": 1, "resolution": 8}
    return sgm.build("first_stages", config | changes)


def test_a_first_stage_encodes_once_and_decodes_as_ever():
    plain = first_stage().eval()
    cached = CachedFirstStage(plain)
    x = torch.rand(3, 3, 8, 8) * 2 - 1
    with torch.no_grad():
        expected = plain.encode(x)
        assert torch.equal(cached.encode(x), expected)
        calls = []
        plain.encoder.register_forward_hook(lambda *_: calls.append(1))
        assert torch.equal(cached.encode(x.flip(0)), expected.flip(0))
        assert not calls
        assert torch.equal(cached.decode(expected), plain.decode(expected))
    assert cached.takes_timesteps is False


def test_a_first_stage_that_samples_is_refused_with_the_way_out():
    with pytest.raises(CacheError, match=r"random.*autoencoder_kl_mode"):
        CachedFirstStage(first_stage(use="autoencoder_kl")).encode(torch.rand(2, 3, 8, 8))


def test_the_engine_lets_its_parts_read_on_the_host_what_goes_to_a_device():
    changes = ["model.cache_latents=true", "model.conditioner.embedders[0].trainable=false"]
    engine = sgm.build_engine(
        sgm.load_config("digits", overrides=[*changes, "model.conditioner.embedders[0].cache=true"])
    )
    batch = {"image": torch.rand(2, 1, 8, 8), "cls": torch.tensor([1, 2]), "other": torch.ones(2)}
    moved = engine.transfer_batch_to_device(batch, torch.device("meta"), 0)
    for key in ("image", "cls"):
        assert digests(moved[key]) == digests(batch[key])
    with pytest.raises(NotImplementedError):  # nobody reads it
        digests(moved["other"])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_looking_up_never_waits_for_the_device():
    batch = {"image": torch.rand(2, 3, 8, 8)}
    moved = {"image": batch["image"].cuda()}
    carry_over(batch["image"], moved["image"])
    cached = CachedFirstStage(first_stage()).cuda()
    expected = cached.encode(moved["image"])
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = cached.encode(moved["image"])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert found.device == moved["image"].device
    assert torch.equal(found, expected)


def test_cached_parts_are_found_by_the_names_of_their_modules():
    module = nn.ModuleDict({"conditioner": conditioner(), "x": CachedEmbedder(sgm.build("embedders", "words"))})
    assert list(cached_parts(module)) == ["conditioner.embedders.0", "x"]


def test_the_config_of_an_unbuilt_part_is_told():
    written = {"use": "general", "embedders": [{"embedder": "words", "input_key": "txt", "cache": True}]}
    assert sgm.to_config(sgm.build("conditioners", written)) == written
    full = sgm.to_config(sgm.build("conditioners", written), defaults=True)["embedders"][0]["embedder"]
    assert full == {"use": "words", "width": 4, "fault": ""}
