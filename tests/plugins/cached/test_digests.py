"""Digests: equal for equal content, whatever batch it is in, and for nothing else."""

import numpy as np
import pytest
import torch

from sgm_plugins.cached.digests import carry_over, digests, join


def test_a_row_has_the_same_digest_in_every_batch():
    x = torch.randn(4, 3, 2)
    assert digests(x)[2] == digests(x[2:3])[0] == digests(x.flip(0))[1] == digests(x.transpose(1, 2).mT)[2]
    assert digests(["a", "b"])[1] == digests(("b",))[0]


def test_content_type_and_shape_all_count():
    entries = [
        torch.zeros(1),
        torch.zeros(1, 1),
        torch.zeros(1, 2, 1),
        torch.zeros(1, 1, 2),
        torch.zeros(1, dtype=torch.int32),
        torch.zeros(1, dtype=torch.int64),
        torch.zeros(1, dtype=torch.bfloat16),
        torch.zeros(1, dtype=torch.bool),
        torch.tensor([-0.0]),
        ["0"],
        [""],
        [0],
        [0.0],
        [False],
        [None],
        [[]],
        [["", ""]],
        [[[""], ""]],
        ["\udcff"],
    ]
    found = [digests(entry)[0] for entry in entries]
    assert len(set(found)) == len(found)


def test_an_array_is_the_tensor_of_its_content():
    assert digests([np.arange(3)])[0] == digests(torch.arange(3)[None])[0]


def test_what_has_no_content_is_refused():
    with pytest.raises(ValueError, match=r"cannot be cached: an? object"):
        digests([object()])


def test_several_entries_and_the_tag_make_one_digest():
    a, b = digests(["a", "x"]), digests(["b", "y"])
    assert len(join([a, b], "t")) == 2
    assert len({*join([a, b], "t"), *join([b, a], "t"), *join([a, b], "u"), *join([a], "t")}) == 8


def test_a_tensor_on_a_device_keeps_the_digests_that_the_host_read():
    batch = {"image": torch.randn(2, 3), "txt": ["a", "b"], "scale": torch.tensor(1.0)}
    moved = {key: value.to("meta") if isinstance(value, torch.Tensor) else value for key, value in batch.items()}
    for key in ("image", "txt", "scale", "absent"):
        carry_over(batch.get(key), moved.get(key))
    assert digests(moved["image"]) == digests(batch["image"])
    with pytest.raises(NotImplementedError):  # another one would have to be read from the device
        digests(torch.zeros(1, device="meta"))
