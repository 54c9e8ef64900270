"""Levels that begin with sigma = inf meet a model that has a limit there, or are refused before anything is built."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest
import torch
from support.shipped import usable_configs

import sgm_core as sgm
from sgm_core.config.api import config_from, load_config
from sgm_core.config.plan import Value
from sgm_core.config.tree import ConfigError
from sgm_core.hooks.checks import check_with_plugins
from sgm_core.roles import Coefficients, Discretization, Scaling
from sgm_plugins.tools.limits.declared import said_by
from sgm_plugins.tools.limits.limits import check_limits, check_source

INF = "in file: .inf"
FLOW, EDM, ZERO = "flow", "edm", {"use": "ddpm", "zero_snr": True}


def discrete(scaling, table="legacy_ddpm", **options):
    return {"use": "discrete", "scaling": scaling, "discretization": table, "num_idx": 1000, **options}


def continuous(scaling):
    return {"use": "continuous", "scaling": scaling}


UNET = {"use": "unet", "in_channels": 1, "out_channels": 1, "model_channels": 32, "num_res_blocks": 1}
UNET |= {"channel_mult": [1], "attention_resolutions": []}


def config(tmp_path, denoiser, levels=EDM, drawn=EDM, num_steps=8, network=UNET):
    """A file with a line for each part."""
    sampler = {"use": "euler_edm", "num_steps": num_steps, "discretization": levels}
    loss = {"use": "standard", "weighting": "unit", "sigma_sampler": drawn}
    file = tmp_path / "model.yaml"
    file.write_text(
        "model:\n"
        "  use: diffusion\n"
        f"  network: {json.dumps(network)}\n"
        f"  denoiser: {json.dumps(denoiser)}\n"
        "  first_stage: identity\n"
        f"  loss_fn: {json.dumps(loss)}\n"
        f"  sampler: {json.dumps(sampler)}\n".replace(f'"{INF}"', ".inf"),
        encoding="utf-8",
    )
    return load_config(file)


def found(config) -> list[str]:
    """By source, and by what is imported: the same."""
    of_source, of_objects = check_source(config), check_limits(config.checked[0])
    assert of_source == of_objects
    return [str(problem) for problem in of_source]


DRAWN = {"use": "discrete", "discretization": ZERO, "num_idx": 1000}
CLAMPED = {"use": "clamped", "sigma_sampler": DRAWN}

REFUSED = [
    (continuous("eps"), FLOW, EDM, "sampler.discretization", "denoiser.scaling (eps)"),
    (continuous("edm"), ZERO, EDM, "sampler.discretization", "denoiser.scaling (edm)"),
    (continuous("v_edm_noise"), FLOW, EDM, "sampler.discretization", "denoiser.scaling (v_edm_noise)"),
    (continuous("v"), "linear_quadratic", EDM, "sampler.discretization", "denoiser.scaling (v)"),
    (continuous({"use": "v", "c_noise": "log"}), FLOW, EDM, "sampler.discretization", "denoiser.scaling (v)"),
    (continuous({"use": "x0", "path": "vp"}), FLOW, EDM, "sampler.discretization", "denoiser.scaling (x0)"),
    (
        continuous("eps"),
        {"use": "levels", "t": [1.0] + [0.9 - i / 10 for i in range(7)]},
        EDM,
        "sampler.discretization",
        "eps",
    ),
    (continuous("eps"), {"use": "levels", "sigmas": [INF, 7, 6, 5, 4, 3, 2, 1]}, EDM, "sampler.discretization", "eps"),
    (continuous("eps"), {"use": "shifted", "shift": 3.0, "discretization": FLOW}, EDM, "sampler.discretization", "eps"),
    (
        continuous("eps"),
        {
            "use": "shifted",
            "base_shift": 0.5,
            "max_shift": 1.15,
            "discretization": {"use": "beta", "discretization": FLOW},
        },
        EDM,
        "sampler.discretization",
        "eps",
    ),
    (continuous("eps"), {"use": "img2img", "discretization": FLOW}, EDM, "sampler.discretization", "eps"),
    (continuous("eps"), EDM, DRAWN, "loss_fn.sigma_sampler.discretization", "denoiser.scaling (eps)"),
    (
        continuous("eps"),
        EDM,
        CLAMPED,
        "loss_fn.sigma_sampler.sigma_sampler.discretization",
        "denoiser.scaling (eps)",
    ),
    (discrete("eps", ZERO), EDM, EDM, "denoiser.discretization", "denoiser.scaling (eps)"),
    (discrete("v", ZERO, quantize_c_noise=False), EDM, EDM, "denoiser.discretization", "denoiser.scaling (v)"),
    (discrete("v"), FLOW, EDM, "sampler.discretization", "denoiser.discretization (legacy_ddpm)"),
    (discrete("flow"), ZERO, EDM, "sampler.discretization", "denoiser.discretization (legacy_ddpm)"),
    (discrete("v"), EDM, DRAWN, "loss_fn.sigma_sampler.discretization", "denoiser.discretization (legacy_ddpm)"),
]


@pytest.mark.parametrize(("denoiser", "levels", "drawn", "path", "other"), REFUSED)
def test_without_a_limit_it_is_refused_with_both_lines(tmp_path, denoiser, levels, drawn, path, other):
    (message,) = found(config(tmp_path, denoiser, levels, drawn))
    first, second = message.split("\n")
    file = tmp_path / "model.yaml"
    line = {"sampler": 7, "loss_fn": 6, "denoiser": 4}[path.partition(".")[0]]
    assert first.startswith(f"{file}:{line}:")
    assert f" model.{path}: the noise levels begin with sigma = inf" in first
    assert second.startswith(f"  {file}:4:")
    assert other in second


FINE = [
    (continuous("flow"), FLOW, DRAWN),
    (continuous({"use": "flow", "reversed": True}), {"use": "shifted", "shift": 3.0, "discretization": FLOW}, EDM),
    (continuous("x0"), ZERO, EDM),
    (continuous({"use": "v", "c_noise": "atan"}), FLOW, EDM),
    (continuous({"use": "v", "c_noise": "t"}), FLOW, EDM),
    (discrete("v", ZERO), ZERO, DRAWN),
    (discrete("x0", ZERO), FLOW, EDM),
    (discrete({"use": "x0", "path": "vp"}, ZERO), FLOW, EDM),
    (discrete("eps"), EDM, EDM),
    (continuous("eps"), EDM, {**CLAMPED, "sigma_max": 100.0}),
    (continuous("eps"), {"use": "img2img", "strength": 0.5, "discretization": FLOW}, EDM),
    (continuous("eps"), {"use": "ddpm", "zero_snr": True, "spacing": "leading"}, EDM),
    (continuous("edm"), {"use": "levels", "t": [0.99 - i / 10 for i in range(8)]}, EDM),
]


@pytest.mark.parametrize(("denoiser", "levels", "drawn"), FINE)
def test_with_a_limit_or_finite_levels_it_is_fine(tmp_path, denoiser, levels, drawn):
    assert found(config(tmp_path, denoiser, levels, drawn)) == []


@pytest.mark.parametrize("name", usable_configs())
def test_every_shipped_config_is_fine(name):
    assert check_source(load_config(name)) == []


@pytest.mark.parametrize("denoiser", [continuous("eps"), discrete("v")])
def test_nothing_is_built(tmp_path, denoiser, register):
    @register("networks", "costly")
    class Costly(torch.nn.Module):
        """Not to be built."""

        def __init__(self) -> None:
            pytest.fail("it is built")

    refused = config(tmp_path, denoiser, FLOW, network={"use": "costly"})
    for refuse in (check_with_plugins, sgm.build_engine):
        with pytest.raises(ConfigError, match="begin with sigma = inf"):
            refuse(refused)


def test_sgm_check_refuses_it_without_torch(tmp_path):
    config(tmp_path, continuous("eps"), FLOW)
    code = "import sys; from sgm_core.cli.app import main; print(main(['check', sys.argv[1]]), 'torch' in sys.modules)"
    file = tmp_path / "model.yaml"
    done = subprocess.run([sys.executable, "-c", code, file], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["1 False"]
    assert f"{file}:7:" in done.stderr
    assert f"{file}:4:" in done.stderr
    assert "where this scaling has no limit" in done.stderr


# --- what components say is what they do ---------------------------------------------------------------------------

PARTS = {
    "discretizations": [
        *("edm", "legacy_ddpm", "exponential", "flow", "linear_quadratic", "ddpm"),
        *({"use": "ddpm", "zero_snr": True, "spacing": spacing} for spacing in ("leading", "trailing", "linspace")),
        {"use": "shifted", "shift": 2.0, "discretization": "flow", "terminal": 0.1},
        {"use": "shifted", "shift": 2.0, "discretization": "edm"},
        {"use": "beta", "discretization": "flow"},
        {"use": "txt2noisy", "discretization": "flow"},
        *({"use": "img2img", "discretization": "flow", "strength": strength} for strength in (0.1, 0.9, 1.0)),
    ],
    "scalings": [
        *("edm", "eps", "v_edm_noise", "flow", "x0"),
        {"use": "x0", "path": "vp"},
        *({"use": "v", "c_noise": c_noise} for c_noise in ("sigma", "log", "atan", "t")),
    ],
    "denoisers": [
        *(continuous(scaling) for scaling in ("edm", "eps", "v", "flow", "x0", {"use": "v", "c_noise": "t"})),
        *(discrete(scaling, table) for scaling in ("v", "flow") for table in (ZERO, "legacy_ddpm")),
    ],
}


@pytest.mark.parametrize("spec", PARTS["discretizations"])
@pytest.mark.parametrize("n", [1, 2, 7, 1000])
def test_a_discretization_says_whether_it_begins_with_infinity(spec, n):
    grid = sgm.build("discretizations", spec)
    assert said_by(Value(grid), n) == bool(grid.sigmas(n)[0].isinf())


@pytest.mark.parametrize("spec", PARTS["scalings"])
def test_a_scaling_says_which_limits_it_has(spec):
    scaling = sgm.build("scalings", spec)
    limits = scaling.at_infinity()
    assert said_by(Value(scaling)) == ("" if limits is None else "c_noise" if math.isfinite(limits[3]) else "index")


@pytest.mark.parametrize("spec", PARTS["denoisers"])
def test_a_denoiser_says_whether_it_takes_infinity(spec):
    denoiser = sgm.build("denoisers", spec)
    assert said_by(Value(denoiser)) == denoiser.takes_infinity


# --- third parties -------------------------------------------------------------------------------------------------

PLUGIN = """
import torch
from sgm_core.roles import Coefficients, Discretization, Scaling

class FromNoise(Discretization):
    "Pure noise first."

    def sigmas(self, n):
        return torch.tensor([float("inf"), *range(n - 1, 0, -1)])

    @staticmethod
    def infinite(n):
        BODY

class Silent(Scaling):
    "It does not say."

    def __call__(self, sigma):
        return Coefficients(sigma, sigma, sigma, sigma)
"""


@pytest.mark.parametrize("body", ["return n is None or n > 0", "answer = True\n        return answer"])
def test_a_plugin_takes_part_by_source_or_once_it_is_imported(tmp_path, make_distribution, body):
    make_distribution(
        "sgm-noise",
        {"sgm.discretizations": {"from_noise": "sgm_noise:FromNoise"}, "sgm.scalings": {"silent": "sgm_noise:Silent"}},
        {"sgm_noise.py": PLUGIN.replace("BODY", body)},
    )
    refused = config(tmp_path, continuous("eps"), "from_noise")
    assert len(check_source(refused)) == (1 if body.startswith("return") else 0)
    assert len(check_limits(refused.checked[0])) == 1
    silent = config(tmp_path, continuous("silent"), "from_noise")
    assert found(silent) == []


def test_a_declaration_that_fails_keeps_nobody_from_training(tmp_path, register):
    @register("discretizations", "failing")
    class Failing(Discretization):
        """It says nonsense."""

        def sigmas(self, n):
            return torch.arange(n, 0, -1.0)

        @staticmethod
        def infinite(n):
            raise RuntimeError(n)

    assert found(config(tmp_path, continuous("eps"), "failing")) == []


def test_what_python_code_built_is_checked_too(register):
    @register("scalings", "mine")
    class Mine(Scaling):
        """Without a limit."""

        def __call__(self, sigma):
            return Coefficients(sigma, sigma, sigma, sigma)

        @staticmethod
        def infinite():
            return ""

    data = {
        "model": {
            "use": "diffusion",
            "network": torch.nn.Identity(),
            "denoiser": sgm.build("denoisers", continuous("mine")),
            "first_stage": "identity",
            "sampler": {"use": "euler_edm", "num_steps": 4, "discretization": "flow"},
        }
    }
    with pytest.raises(ConfigError, match=r"begin with sigma = inf(?s:.*)\(mine\)"):
        check_with_plugins(config_from(data))
