"""What is true of every quantizer."""

import numpy as np
import pytest
import torch

from sgm_core.testing import check_component
from sgm_plugins.regularizers.ema_vq import EMAVectorQuantizer
from sgm_plugins.regularizers.gumbel import GumbelQuantizer
from sgm_plugins.regularizers.quantizer import usage
from sgm_plugins.regularizers.vq import VectorQuantizer

C, N = 4, 10
MAKERS = {
    "vq": (VectorQuantizer, {"n_embed": N, "embed_dim": C}),
    "ema_vq": (EMAVectorQuantizer, {"n_embed": N, "embed_dim": C}),
    "gumbel": (GumbelQuantizer, {"n_embed": N, "embed_dim": C, "num_hiddens": C}),
}
ALL = pytest.mark.parametrize("name", MAKERS)
NEAREST = pytest.mark.parametrize("name", ["vq", "ema_vq"])


def build(name, **options):
    make, params = MAKERS[name]
    torch.manual_seed(0)
    return make(**params, **options).eval()


def latents(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def codebook(quantizer):
    return quantizer.lookup(torch.arange(N))


@ALL
def test_the_contract(name):
    make, params = MAKERS[name]
    check_component("regularizers", make, inputs={"z": latents(2, C, 4, 4)}, **params)


@ALL
def test_each_cell_is_the_entry_of_the_codebook_that_its_code_names(name):
    quantizer = build(name)
    z, log = quantizer(latents(2, C, 3, 5))
    assert log["indices"].shape == (2, 3, 5)
    assert log["indices"].dtype == torch.int64
    torch.testing.assert_close(z.movedim(1, -1), codebook(quantizer)[log["indices"]], rtol=0, atol=1e-6)
    torch.testing.assert_close(quantizer.codes_to_latents(log["indices"]), z, rtol=0, atol=1e-6)


@ALL
def test_every_quantizer_logs_the_same_entries_as_tensors(name):
    """B36: whoever reads the log (an integer wrapper, a loss) need not know which quantizer it was."""
    quantizer = build(name)
    for mode in (True, False):
        _, log = quantizer.train(mode)(latents(2, C, 3, 5))
        assert set(log) == {"vq_loss", "indices", "perplexity", "cluster_usage"}
        assert all(isinstance(value, torch.Tensor) for value in log.values())


@NEAREST
@pytest.mark.parametrize("shape", [(6, C), (2, 7, C), (2, C, 3, 5), (2, C, 2, 3, 5)])
def test_codes_keep_the_shape_of_vectors_tokens_grids_and_volumes(name, shape):
    """B36: tokens were an EinopsError."""
    quantizer, z = build(name), latents(*shape)
    quantized, log = quantizer(z)
    rest = shape[:-1] if len(shape) < 4 else (shape[0], *shape[2:])
    assert quantized.shape == shape
    assert log["indices"].shape == rest
    torch.testing.assert_close(quantizer.codes_to_latents(log["indices"]), quantized, rtol=0, atol=1e-6)


@NEAREST
def test_the_code_is_that_of_the_nearest_entry(name):
    quantizer, z = build(name), latents(2, C, 3, 5)
    distances = torch.cdist(z.movedim(1, -1).reshape(-1, C), codebook(quantizer))
    assert torch.equal(quantizer(z)[1]["indices"].flatten(), distances.argmin(1))


@NEAREST
def test_autocast_does_not_change_what_is_nearest(name):
    quantizer, z = build(name), latents(64, C, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = quantizer(z)[1]["indices"]
    assert torch.equal(under, quantizer(z)[1]["indices"])


@NEAREST
def test_the_gradient_passes_straight_through(name):
    quantizer, z = build(name), latents(2, C, 3, 5).requires_grad_()
    weight = latents(2, C, 3, 5)
    (quantizer(z)[0] * weight).sum().backward()
    assert torch.equal(z.grad, weight)


def test_usage_of_a_codebook():
    alike = usage(torch.arange(8).repeat(3), 16)
    torch.testing.assert_close(alike["perplexity"], torch.tensor(8.0))
    assert alike["cluster_usage"] == 8
    torch.testing.assert_close(usage(torch.zeros(5, dtype=torch.int64), 16)["perplexity"], torch.tensor(1.0))


# --- a subset of the codes -----------------------------------------------------------------------------------------


@pytest.fixture
def subset(tmp_path):
    def write(codes, name="codes.npy"):
        np.save(tmp_path / name, np.asarray(codes))
        return tmp_path / name

    return write


@NEAREST
@pytest.mark.parametrize("unknown_index", ["random", "extra", 1])
def test_codes_of_a_subset_are_positions_in_it(name, unknown_index, subset):
    """B36: the reference's EMA quantizer with a subset was an AttributeError."""
    used = [7, 2, 5]
    quantizer = build(name, remap=subset(used), unknown_index=unknown_index)
    codes = quantizer.to_subset(torch.arange(N))
    assert codes[used].tolist() == [0, 1, 2]
    others = codes[[code for code in range(N) if code not in used]]
    if unknown_index == "random":
        assert set(others.tolist()) <= {0, 1, 2}
    else:
        assert set(others.tolist()) == {3 if unknown_index == "extra" else 1}
    assert torch.equal(quantizer.codes_to_latents(torch.arange(3)), codebook(quantizer)[used])
    assert quantizer.codes_to_latents(torch.tensor([3])).isfinite().all()
    assert "used" in quantizer.state_dict()


@NEAREST
def test_the_log_has_the_codes_of_the_subset(name, subset):
    whole = build(name)(latents(2, C, 3, 5))[1]["indices"]
    used = whole.unique().flip(0)
    quantized, log = build(name, remap=subset(used.numpy()))(latents(2, C, 3, 5))
    assert torch.equal(used[log["indices"]], whole)
    assert torch.equal(quantized, build(name)(latents(2, C, 3, 5))[0])


def test_gumbel_chooses_from_the_subset_alone(subset):
    quantizer = build("gumbel", remap=subset([7, 2]))
    z, log = quantizer(latents(8, C, 6, 6))
    assert set(log["indices"].unique().tolist()) == {0, 1}
    torch.testing.assert_close(quantizer.codes_to_latents(log["indices"]), z)
    assert log["vq_loss"].isfinite()


@pytest.mark.parametrize(
    ("codes", "message"), [([0, N], f"from 0 to {N}; the codebook has {N}"), ([[1]], "shape"), ([0.5], "float64")]
)
def test_a_file_without_codes_is_refused(codes, message, subset):
    with pytest.raises(ValueError, match=message):
        build("vq", remap=subset(codes))


def test_an_unknown_index_outside_of_the_subset_is_refused(subset):
    with pytest.raises(ValueError, match=r"unknown_index is 3.*codes 0 to 1"):
        build("vq", remap=subset([4, 5]), unknown_index=3)
