import pytest
import torch

from sgm_core.slots import EmbedderSlot
from sgm_core.testing import check_component
from sgm_plugins.conditioners.general import GeneralConditioner
from sgm_plugins.embedders.classes import ClassEmbedder
from sgm_plugins.embedders.learned_null import LearnedNullEmbedder

BATCH = {"cls": torch.tensor([3, 1, 2, 0])}


def conditioner(null=((6,),), **slot):
    embedder = LearnedNullEmbedder(ClassEmbedder(6, 10), [list(shape) for shape in null])
    return GeneralConditioner([EmbedderSlot(embedder, input_key="cls", trainable=True, **slot)])


def test_it_keeps_the_contract_of_embedders():
    check_component(
        "embedders", "learned_null", embedder={"use": "class", "embed_dim": 6}, shapes_of_null=[[6]], inputs=BATCH
    )


def test_a_dropped_sample_gets_it_and_so_does_the_unconditional_half():
    cond = conditioner(ucg_rate=1.0)
    null = cond.embedders[0].null[0]
    assert torch.equal(cond(BATCH).vector, null.expand(4, 6))
    assert torch.equal(cond.unconditional(BATCH).vector, null.expand(4, 6))
    kept = cond.embedders[0].embedder(BATCH["cls"])
    assert torch.equal(cond(BATCH, drop=False).vector, kept)


def test_some_are_dropped_and_the_others_are_as_they_were():
    cond = conditioner(ucg_rate=0.5)
    null, kept = cond.embedders[0].null[0], cond.embedders[0].embedder(BATCH["cls"])
    out = cond(BATCH, generator=torch.Generator().manual_seed(0)).vector
    dropped = (out == null).all(dim=1)
    assert 0 < dropped.sum() < 4
    assert torch.equal(out[~dropped], kept[~dropped])


def test_it_is_learned():
    cond = conditioner(ucg_rate=1.0)
    cond(BATCH).vector.sum().backward()
    assert torch.equal(cond.embedders[0].null[0].grad, torch.full((6,), 4.0))


def test_forced_zeros_are_zeros():
    assert not conditioner(ucg_rate=1.0)(BATCH, force_zero=["cls"]).vector.any()


def test_one_that_does_not_fit_names_the_slot():
    with pytest.raises(
        ValueError, match=r"^conditioner.embedders\[0\] \(LearnedNullEmbedder\): its null embedding is "
    ):
        conditioner(null=((5,),), ucg_rate=1.0)(BATCH)
    with pytest.raises(ValueError, match="it has 2 null embeddings for 1 outputs"):
        conditioner(null=((6,), (6,)), ucg_rate=1.0)(BATCH)
    with pytest.raises(ValueError, match=r"shapes_of_null has \[5\], and the embedder gives \[6\]: give that"):
        LearnedNullEmbedder.shapes((), embedder=lambda labels: (6,), shapes_of_null=[[5]])
