"""What a sample draws in training does not depend on what shares its batch, its process or its step's other batches."""

import pytest
import torch
from torch.nn.functional import gumbel_softmax as torch_gumbel_softmax

from sgm_core.randomness import bernoulli, exponential_like, randint, randn, randn_like
from sgm_core.randomness.samples import SMALL, SampleDraws, in_chunks, sample_draws
from sgm_plugins.regularizers.gumbel import gumbel_softmax

SHAPES = [(), (3,), (1, 8, 8), (4, 9, 9)]  # of a row; the last one is long


def step(samples: int, first: int = 0, key=(1, 2)):
    return sample_draws(SampleDraws(key, samples, first))


def everything(rows: int) -> list[torch.Tensor]:
    """One draw of each kind, and some again."""
    return [
        *(randn((rows, *shape)) for shape in SHAPES),
        *(randint(7, (rows, *shape)) for shape in SHAPES),
        *(bernoulli(0.3, (rows, *shape)) for shape in SHAPES),
        *(exponential_like(torch.empty(rows, *shape)) for shape in SHAPES),
        randn_like(torch.empty(rows, 2, dtype=torch.float64)),
        randn_like(torch.empty(rows, 2, dtype=torch.bfloat16)),
    ]


@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("parts", [(2, 2, 2), (1, 3, 2), (5, 1)])
def test_batches_draw_what_one_batch_of_all_their_samples_draws(parts, frames):
    samples = sum(parts)
    with step(samples):
        whole = everything(samples * frames)
    first, drawn = 0, []
    for b in parts:
        with step(b, first):
            drawn.append(everything(b * frames))
        first += b
    for of_parts, together in zip(zip(*drawn, strict=True), whole, strict=True):
        assert torch.equal(torch.cat(of_parts), together)


def test_each_row_draw_step_and_seed_has_its_own():
    rows = []
    for key in ((1, 2), (2, 1), (1, 3), (12,)):
        with step(4, key=key):
            rows += [*randn((8, 5)), *randn((8, 5)), *randn((8, 5000))[:, :5]]
    assert len({tuple(row.tolist()) for row in rows}) == len(rows)


def test_what_has_no_rows_for_the_samples_comes_from_torchs_state():
    for shape in ((5, 2), (0, 2), (2, 1000)):
        torch.manual_seed(3)
        expected = torch.randn(*shape)
        torch.manual_seed(3)
        with step(4):
            assert torch.equal(randn(shape), expected)


def test_an_explicit_generator_is_the_source_and_samples_draw_leaves_torchs_state_alone():
    state = torch.get_rng_state()
    with step(4):
        everything(4)
        drawn = [draw(torch.Generator().manual_seed(5)) for draw in DRAWS]
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(a, draw(torch.Generator().manual_seed(5))) for a, draw in zip(drawn, DRAWS, strict=True))
    assert torch.equal(drawn[0], torch.randn(4, 3, generator=torch.Generator().manual_seed(5)))
    assert torch.equal(drawn[1], torch.randint(9, (4,), generator=torch.Generator().manual_seed(5)))
    chances = 0.3 * torch.ones(40)
    assert torch.equal(drawn[2], torch.bernoulli(chances, generator=torch.Generator().manual_seed(5)).bool())


DRAWS = [
    lambda generator: randn((4, 3), generator),
    lambda generator: randint(9, (4,), generator),
    lambda generator: bernoulli(0.3, (40,), generator),
]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 12, 100, None])
def test_in_chunks_each_row_draws_what_it_would_in_one_piece(size):
    x = torch.arange(12.0)[:, None].expand(12, 300)
    with step(4, first=8):
        before, expected, after = randn((4,)), [x + randn_like(x), randn_like(x)], randn((4,))
    with step(4, first=8):
        assert torch.equal(randn((4,)), before)
        found = [(chunk + randn_like(chunk), randn_like(chunk)) for chunk in in_chunks(x, size)]
        assert torch.equal(randn((4,)), after)
    for i in (0, 1):
        assert torch.equal(torch.cat([parts[i] for parts in found]), expected[i])
    assert torch.equal(torch.cat(list(in_chunks(x, size))), x)  # outside of a step too


@pytest.mark.parametrize("length", [SMALL, SMALL + 1])
def test_numbers_are_distributed_as_they_should_be(length):
    """Means and variances within 5 standard errors, and neighbours uncorrelated: down a row, across rows and draws."""
    drawn = {"normal": [], "integer": [], "bernoulli": [], "exponential": []}
    for i in range(20):
        with step(64, key=(5, i)):
            drawn["normal"].append(randn((64, length)).double())
            drawn["integer"].append(randint(6, (64, length)).double())
            drawn["bernoulli"].append(bernoulli(0.3, (64, length)).double())
            drawn["exponential"].append(exponential_like(torch.empty(64, length)).double())
    truth = {  # mean, variance, variance of the squared deviation
        "normal": (0, 1, 2),
        "integer": (2.5, 35 / 12, 14.729 - (35 / 12) ** 2),
        "bernoulli": (0.3, 0.21, 0.21 * (1 - 3 * 0.21) - 0.21**2),
        "exponential": (1, 1, 8),
    }
    for name, (mean, variance, spread) in truth.items():
        x = torch.stack(drawn[name])  # (20, 64, length)
        n = x.numel()
        deviation = x - mean
        assert abs(x.mean() - mean) < 5 * (variance / n) ** 0.5, name
        assert abs(deviation.square().mean() - variance) < 5 * (max(spread, 0.01) / n) ** 0.5, name
        for axis in range(3):
            product = deviation.narrow(axis, 1, x.shape[axis] - 1) * deviation.narrow(axis, 0, x.shape[axis] - 1)
            assert abs(product.mean()) < 5 * variance / product.numel() ** 0.5, (name, axis)
    ordered = torch.stack(drawn["normal"]).flatten().sort().values
    cdf = torch.distributions.Normal(0.0, 1.0).cdf(ordered)
    gap = (cdf - torch.arange(1, len(cdf) + 1) / len(cdf)).abs().max()
    assert gap < 1.95 / len(cdf) ** 0.5  # Kolmogorov-Smirnov, p = 0.001
    assert torch.stack(drawn["integer"]).unique().tolist() == [0, 1, 2, 3, 4, 5]


def test_after_a_step_torchs_state_is_the_source_again():
    with step(2):
        inside = randn((2, 3))
    torch.manual_seed(0)
    outside = randn((2, 3))
    torch.manual_seed(0)
    assert torch.equal(outside, torch.randn(2, 3))
    assert not torch.equal(inside, outside)


@pytest.mark.parametrize("hard", [True, False])
def test_outside_of_a_step_the_gumbel_softmax_is_torchs(hard):
    logits = torch.randn(2, 5, 3, 3, requires_grad=True)
    results = []
    for function in (gumbel_softmax, lambda *args, **kwargs: torch_gumbel_softmax(*args, **kwargs, dim=1)):
        torch.manual_seed(1)
        out = function(logits, 0.7, hard=hard)
        results.append((out, *torch.autograd.grad(out.square().sum() + out[:, 0].sum(), logits)))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
