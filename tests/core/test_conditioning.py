import pytest
import torch

from sgm_core.conditioning import Conditioning


def make(b: int, **changes) -> Conditioning:
    parts = {
        "vector": torch.rand(b, 3),
        "crossattn": torch.rand(b, 2, 5),
        "extras": {"view": torch.rand(b, 1), "frames": 4},
    }
    return Conditioning(**(parts | changes))


def test_joining_and_slicing_are_inverse():
    a, b = make(2), make(3)
    both = Conditioning.cat([a, b])
    assert torch.equal(both.vector, torch.cat([a.vector, b.vector]))
    for part, again in ((a, both[:2]), (b, both[2:])):
        assert torch.equal(part.vector, again.vector)
        assert torch.equal(part.crossattn, again.crossattn)
        assert torch.equal(part.extras["view"], again.extras["view"])
        assert again.extras["frames"] == 4
    assert both.concat is None


@pytest.mark.parametrize(
    "other",
    [
        make(1, vector=None),
        make(1, extras={}),
        make(1, extras={"view": torch.rand(1, 1), "frames": 5}),
        make(1, extras={"view": 3, "frames": 4}),
    ],
)
def test_parts_that_differ_in_their_entries_can_not_be_joined(other):
    with pytest.raises(ValueError, match="cannot be joined"):
        Conditioning.cat([make(1), other])


def test_to_casts_tensors_and_with_extras_leaves_the_original():
    cond = make(2)
    assert cond.to(torch.float64).crossattn.dtype == torch.float64
    assert "time" in cond.with_extras(time=1).extras
    assert "time" not in cond.extras
