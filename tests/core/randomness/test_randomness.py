from contextlib import suppress

import pytest
import torch

from sgm_core.randomness import draws_of, own_random_state, randn, randn_like


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_one_generator_draws_what_torch_draws():
    assert torch.equal(randn((2, 3), generator(5)), torch.randn(2, 3, generator=generator(5)))


def test_with_a_generator_per_sample_a_sample_does_not_depend_on_its_batch():
    batch = randn((3, 4), [generator(seed) for seed in (1, 2, 3)])
    assert torch.equal(batch[1], randn((1, 4), [generator(2)])[0])


def test_generators_leave_the_global_state_alone_and_none_uses_it():
    state = torch.get_rng_state()
    randn((3, 4), generator(0))
    assert torch.equal(state, torch.get_rng_state())
    randn((3, 4))
    assert not torch.equal(state, torch.get_rng_state())


def test_noise_is_like_the_tensor():
    x = torch.zeros(2, 3, dtype=torch.float64)
    assert randn_like(x, generator(0)).dtype == torch.float64
    assert randn_like(x).shape == x.shape


def test_a_wrong_number_of_generators_says_how_many_are_needed():
    with pytest.raises(ValueError, match="2 generators for a batch of 3"):
        randn((3, 1), [generator(0), generator(1)])


def test_what_is_drawn_apart_leaves_the_random_state_as_it_was():
    """Whether it ends well or not, and on the accelerator of a Mac too, where torch has another way to it."""
    before = torch.get_rng_state()
    for fails in (False, True):
        with suppress(KeyError), own_random_state(torch.device("cpu")):
            torch.manual_seed(5)
            if fails:
                raise KeyError
    assert torch.equal(torch.get_rng_state(), before)


def test_the_random_state_of_a_mac_is_put_back_too(monkeypatch):
    states = ["before"]
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: states[-1])
    monkeypatch.setattr(torch.mps, "set_rng_state", states.append)
    before = torch.get_rng_state()
    with own_random_state(torch.device("mps")):
        states.append("drawn")
        torch.randn(3)
    assert states == ["before", "drawn", "before"]
    assert torch.equal(torch.get_rng_state(), before)


def test_draws_of_a_key_are_its_own_and_leave_the_random_state_as_it_was():
    before, drawn = torch.get_rng_state(), {}
    for key in ((1, 2), (2, 1), (12,), (1, 2, 0), (1, 2)):
        with draws_of(key, torch.device("cpu")):
            value = torch.rand(()).item()
        assert drawn.setdefault(key, value) == value
    assert len(set(drawn.values())) == len(drawn) == 4
    assert torch.equal(torch.get_rng_state(), before)
