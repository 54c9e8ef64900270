import pytest
import torch

from sgm_core.randomness import randn, randn_like


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
