"""A loss whose levels are weighed by a learned uncertainty."""

from __future__ import annotations

import math

import pytest
import torch
from support.tiny_model import equal, fit, make_batch, make_engine, snapshot
from torch import Tensor, nn

from sgm_core import build
from sgm_core.building.loaded import load_engine
from sgm_core.conditioning import Conditioning
from sgm_core.roles import Loss
from sgm_core.testing import check_component
from sgm_plugins.losses.standard import StandardLoss
from sgm_plugins.losses.uncertainty import Uncertainty, UncertaintyLoss
from sgm_plugins.sigma_samplers import EDMSigmaSampler
from sgm_plugins.sigma_samplers.laws import LogitNormalSigmaSampler
from sgm_plugins.weightings import EDMWeighting, UnitWeighting

COND = Conditioning()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def standard(**options) -> StandardLoss:
    return StandardLoss(EDMSigmaSampler(), EDMWeighting(0.5), **options)


def keep(x: Tensor, sigma: Tensor, cond: Conditioning) -> Tensor:
    return x


def test_a_fresh_one_is_the_inner_loss_with_the_same_draws() -> None:
    x = torch.randn(4, 2, 4, 4)
    losses = UncertaintyLoss(standard(offset_noise_level=0.1))(keep, x, COND, generator())
    assert torch.equal(losses, standard(offset_noise_level=0.1)(keep, x, COND, generator()))


def test_it_is_the_inner_loss_over_exp_u_plus_u() -> None:
    x, sigma = torch.randn(5, 1, 4, 4).double(), torch.tensor([0.002, 0.3, 1.0, 80.0, math.inf]).double()
    loss = UncertaintyLoss(StandardLoss(EDMSigmaSampler(), UnitWeighting()), channels=16)
    nn.init.normal_(loss.head.weight, generator=generator())
    inner, u = loss.loss(keep, x, COND, generator(1), sigma=sigma), loss.head(sigma)
    assert u.isfinite().all()
    assert u.unique().numel() == 5
    torch.testing.assert_close(loss(keep, x, COND, generator(1), sigma=sigma), inner / u.exp() + u, rtol=1e-12, atol=0)


def test_the_head_learns_the_logarithm_of_the_mean_loss_of_each_level() -> None:
    """The minimum over u of E[l] / exp(u) + u."""
    x = torch.zeros(256, 1, 8, 8)
    loss = UncertaintyLoss(StandardLoss(LogitNormalSigmaSampler(), UnitWeighting()), channels=64)
    optimizer, source = torch.optim.Adam(loss.parameters(), lr=3e-3), generator()
    for _ in range(400):  # l of level sigma is sigma^2 on average
        optimizer.zero_grad()
        loss(keep, x, COND, source).mean().backward()
        optimizer.step()
    sigma = torch.tensor([0.2, 0.5, 1.0, 2.0, 5.0])
    torch.testing.assert_close(loss.head(sigma), 2 * sigma.log(), atol=0.15, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_head_gives_a_finite_number_at_every_level(dtype: torch.dtype) -> None:
    head = Uncertainty(128).to(dtype)
    nn.init.ones_(head.weight)
    u = head(torch.tensor([0.0, 1e-30, 0.002, 1.0, 80.0, 1e30, math.inf]))
    assert u.dtype == torch.float32
    assert u.isfinite().all()


def test_its_batch_entries_and_levels_are_those_of_the_inner_loss() -> None:
    loss, x = UncertaintyLoss(standard(mask="m")), torch.randn(2, 1, 4, 4)
    assert loss.input_keys == ("m",)
    assert loss.sigma_sampler is loss.loss.sigma_sampler
    m = torch.zeros(2, 1, 4, 4)
    assert loss(keep, x, COND, generator(), batch={"m": m}).tolist() == [0, 0]


def test_a_loss_whose_levels_are_not_known_is_refused() -> None:
    class Bare(Loss):
        """Without p(sigma)."""

        def forward(self, denoise, x, cond, generator=None, sigma=None):
            return x.flatten(1).mean(dim=1)

    with pytest.raises(ValueError, match="Bare without a sigma_sampler"):
        UncertaintyLoss(Bare())


def test_it_keeps_the_contract() -> None:
    check_component("losses", "uncertainty", loss=StandardLoss(EDMSigmaSampler(), UnitWeighting()))


# --- in an engine ----------------------------------------------------------------------------------------------------

HEAD = "loss_fn.head.weight"


def test_the_head_is_trained_averaged_and_resumed(tmp_path) -> None:
    def engine():
        return make_engine(loss_fn=UncertaintyLoss(standard(), channels=16))

    whole = engine()
    fit(whole, 6)
    first = engine()
    fit(first, 3).save_checkpoint(tmp_path / "a.ckpt")
    second = engine()
    fit(second, 6, checkpoint=tmp_path / "a.ckpt")
    state = snapshot(second)
    assert equal(state, snapshot(whole))
    assert state[HEAD].abs().max() > 0
    assert state[f"model_ema.shadow.{HEAD}"].abs().max() > 0
    assert not torch.equal(state[HEAD], torch.load(tmp_path / "a.ckpt", weights_only=True)["state_dict"][HEAD])


def test_what_is_validated_is_what_is_trained() -> None:
    engine = make_engine(loss_fn=UncertaintyLoss(standard()), ema=None)
    nn.init.constant_(engine.loss_fn.head.weight, 0.05)
    engine.on_validation_epoch_start()
    engine.validation_step(make_batch(8), 0)
    [(_, mean, _)] = engine.validation.results(lambda totals: totals)
    plain = make_engine(ema=None)
    plain.on_validation_epoch_start()
    plain.validation_step(make_batch(8), 0)
    [(_, inner, by_level)] = plain.validation.results(lambda totals: totals)
    u = engine.loss_fn.head(plain.validation.levels.sigmas)
    shares, losses = plain.validation.levels.shares, torch.tensor(list(by_level.values()))
    torch.testing.assert_close((shares * losses).sum(), inner)
    torch.testing.assert_close(mean, (shares * (losses / u.exp() + u)).sum())


CONFIG = {
    "use": "diffusion",
    "network": {
        "use": "unet", "in_channels": 1, "out_channels": 1, "model_channels": 32, "num_res_blocks": 1,
        "channel_mult": [1], "attention_resolutions": [],
    },
    "denoiser": {"use": "continuous", "scaling": "edm"},
    "first_stage": "identity",
    "loss_fn": {"use": "standard", "sigma_sampler": "edm", "weighting": "edm"},
    "sampler": {"use": "euler_edm", "num_steps": 2, "discretization": "edm"},
}  # fmt: skip


def config(learned: bool, **changes) -> dict:
    inner = CONFIG["loss_fn"]
    return {"model": CONFIG | {"loss_fn": {"use": "uncertainty", "loss": inner} if learned else inner} | changes}


def test_a_checkpoint_without_a_head_loads_and_one_with_it_is_sampled_from(tmp_path) -> None:
    from sgm_core.building.fresh import build_engine

    old, new = build_engine(config(False)), build_engine(config(True))
    torch.save({"state_dict": old.state_dict()}, tmp_path / "old.ckpt")
    new.load_weights(tmp_path / "old.ckpt")
    assert new.loss_fn.head.weight.abs().max() == 0
    key = "model.diffusion_model.out.2.weight"
    assert torch.equal(new.state_dict()[key], old.state_dict()[key])
    nn.init.ones_(new.loss_fn.head.weight)
    torch.save({"state_dict": new.state_dict()}, tmp_path / "new.ckpt")
    for file in ("old.ckpt", "new.ckpt"):
        engine = load_engine(tmp_path / file, config(True))
        assert engine.loss_fn.head.weight.mean() == (file == "new.ckpt")
        assert engine.generate(n=1, shape=(1, 8, 8)).isfinite().all()


@pytest.mark.parametrize("ema", [{}, {"ema": "ema"}])
def test_a_checkpoint_of_another_loss_loads_with_its_average_and_without(tmp_path, ema) -> None:
    from sgm_core.building.fresh import build_engine

    engines = {learned: build_engine(config(learned, **ema)) for learned in (False, True)}
    for learned, engine in engines.items():
        torch.save({"state_dict": engine.state_dict()}, tmp_path / "a.ckpt")
        engines[not learned].load_weights(tmp_path / "a.ckpt")
        load_engine(tmp_path / "a.ckpt", config(not learned, **ema))


def test_a_config_builds_it() -> None:
    loss = build("losses", {"use": "uncertainty", "loss": CONFIG["loss_fn"], "channels": 8})
    assert isinstance(loss, UncertaintyLoss)
    assert list(loss.state_dict()) == ["head.weight"]
