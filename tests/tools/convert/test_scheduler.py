"""`sgm convert scheduler`: what a scheduler of diffusers becomes, against that scheduler."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
import yaml

import sgm_core as sgm
from sgm_core.cli.app import main
from sgm_core.errors import SgmError
from sgm_plugins.tools.convert.scheduler import convert_scheduler
from sgm_plugins.tools.convert.tables.schedulers import CLASSES

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
N = 10


@pytest.fixture
def converted(tmp_path: Path):
    """Converts a scheduler as diffusers saves it; gives the model and the comments."""

    def convert(name: str, **options: Any) -> tuple[dict[str, Any], str]:
        getattr(diffusers, name)(**options).save_pretrained(tmp_path)
        text = convert_scheduler(tmp_path)
        comments = " ".join(line[2:] for line in text.splitlines() if line.startswith("# "))
        return yaml.safe_load(text)["model"], comments

    return convert


def given(scheduler: Any, n: int = N) -> torch.Tensor:
    """The levels of a scheduler, 0 at the end: DEIS has another level there."""
    scheduler.set_timesteps(n)
    sigmas = scheduler.sigmas.double().clone()
    sigmas[-1] = 0
    return sigmas


def levels(model: dict[str, Any], n: int = N, shape: tuple[int, ...] = (1, 16, 64, 64)) -> torch.Tensor:
    return sgm.build("discretizations", model["sampler"]["discretization"]).for_shape(shape)(n).double()


def times(sigmas: torch.Tensor) -> torch.Tensor:
    return 1 - 1 / (1 + sigmas)


# --- flow models ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize(
    ("name", "sampler"),
    [
        ("FlowMatchEulerDiscreteScheduler", {"use": "euler_edm"}),
        ("FlowMatchHeunDiscreteScheduler", {"use": "heun_edm", "coordinate": "t"}),
        ("FlowMatchLCMScheduler", {"use": "lcm"}),
    ],
)
def test_flow_schedulers(converted, name, sampler, shift):
    model, comments = converted(name, shift=shift)
    assert model["denoiser"] == {"use": "continuous", "scaling": "flow"}
    assert {key: value for key, value in model["sampler"].items() if key != "discretization"} == sampler
    theirs = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    theirs.set_timesteps(N)
    torch.testing.assert_close(times(levels(model)), theirs.sigmas.double(), rtol=0, atol=1e-6)
    assert "approximated" not in comments
    assert "dropped" not in comments


def test_the_lowest_level_is_shifted_twice_as_there(converted):
    model, _ = converted("FlowMatchEulerDiscreteScheduler", shift=3.0)
    inner = {"use": "flow", "t_min": 0.0029940120}
    assert model["sampler"]["discretization"] == {"use": "shifted", "shift": 3.0, "discretization": inner}


@pytest.mark.parametrize("options", [{}, {"max_shift": 0.9, "max_image_seq_len": 8192}, {"shift_terminal": 0.02}])
def test_a_dynamic_shift(converted, options):
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    model, _ = converted("FlowMatchEulerDiscreteScheduler", use_dynamic_shifting=True, shift=3.0, **options)
    theirs = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, **options)
    line = {"max_seq_len": options.get("max_image_seq_len", 4096), "max_shift": options.get("max_shift", 1.15)}
    theirs.set_timesteps(sigmas=np.linspace(1, 1 / N, N), mu=calculate_shift(1024, **line))
    torch.testing.assert_close(times(levels(model)), theirs.sigmas.double(), rtol=0, atol=1e-6)


def test_a_linear_shift_is_right_at_both_ends_and_said_to_be_approximated(converted):
    options = {"use_dynamic_shifting": True, "time_shift_type": "linear", "base_shift": 1.5, "max_shift": 3.0}
    model, comments = converted("FlowMatchEulerDiscreteScheduler", **options)
    assert "time_shift_type: linear is approximated" in comments
    for side, shift in ((32, 1.5), (128, 3.0)):
        theirs = diffusers.FlowMatchEulerDiscreteScheduler(**options)
        theirs.set_timesteps(sigmas=np.linspace(1, 1 / N, N), mu=shift)
        ours = times(levels(model, shape=(1, 16, side, side)))
        torch.testing.assert_close(ours, theirs.sigmas.double(), rtol=0, atol=1e-6)


def test_beta_times(converted):
    model, comments = converted("FlowMatchEulerDiscreteScheduler", shift=3.0, use_beta_sigmas=True)
    theirs = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_beta_sigmas=True)
    theirs.set_timesteps(N)
    torch.testing.assert_close(times(levels(model)), theirs.sigmas.double(), rtol=0, atol=1e-6)
    assert "approximated" not in comments


def test_what_else_a_flow_scheduler_may_say(converted):
    model, _ = converted("FlowMatchEulerDiscreteScheduler", stochastic_sampling=True)
    assert model["sampler"]["use"] == "lcm"
    model, comments = converted("FlowMatchEulerDiscreteScheduler", invert_sigmas=True)
    assert model["denoiser"]["scaling"] == {"use": "flow", "reversed": True}
    assert model["sampler"]["discretization"] == "linear_quadratic"
    assert "Mochi" in comments
    model, comments = converted("FlowMatchEulerDiscreteScheduler", use_karras_sigmas=True, num_train_timesteps=500)
    assert model["denoiser"]["scaling"] == {"use": "flow", "multiplier": 500.0}
    assert "use_karras_sigmas: true is dropped" in comments


# --- processes with betas ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize(("name", "sampler"), [("DDIMScheduler", "ddim"), ("DDPMScheduler", "ddpm")])
def test_ddim_and_ddpm(converted, name, sampler, spacing):
    model, comments = converted(name, **SD, timestep_spacing=spacing, steps_offset=1, clip_sample=False)
    assert model["sampler"]["use"] == sampler
    theirs = diffusers.DDIMScheduler(**SD, timestep_spacing=spacing, steps_offset=1)
    theirs.set_timesteps(N)
    abar = theirs.alphas_cumprod[theirs.timesteps].double()
    torch.testing.assert_close(levels(model)[:-1], ((1 - abar) / abar).sqrt(), rtol=1e-4, atol=0)
    assert "dropped" not in comments


@pytest.mark.parametrize(
    ("name", "sampler", "spacing"),
    [
        ("EulerDiscreteScheduler", "euler_edm", "leading"),
        ("EulerDiscreteScheduler", "euler_edm", "trailing"),
        ("EulerAncestralDiscreteScheduler", "euler_ancestral", "trailing"),
        ("LMSDiscreteScheduler", "linear_multistep", "leading"),
        ("HeunDiscreteScheduler", "heun_edm", "trailing"),
        ("DPMSolverMultistepScheduler", "dpmpp_2m", "trailing"),
        ("UniPCMultistepScheduler", "unipc", "trailing"),
        ("DEISMultistepScheduler", "deis", "trailing"),
    ],
)
def test_levels_by_timesteps(converted, name, sampler, spacing):
    model, comments = converted(name, **SD, timestep_spacing=spacing, steps_offset=1)
    assert model["sampler"]["use"] == sampler
    sigmas = given(getattr(diffusers, name)(**SD, timestep_spacing=spacing, steps_offset=1))
    if name == "HeunDiscreteScheduler":  # it has each level twice, for both evaluations
        sigmas = torch.cat([sigmas[:1], sigmas[1::2]])
    torch.testing.assert_close(levels(model), sigmas, rtol=1e-4, atol=0)
    assert "approximated" not in comments


@pytest.mark.parametrize(("option", "grid"), [("use_karras_sigmas", "edm"), ("use_exponential_sigmas", "exponential")])
@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"])
def test_levels_between_the_ends_of_the_table(converted, name, option, grid):
    model, _ = converted(name, **SD, **{option: True})
    assert model["sampler"]["discretization"]["use"] == grid
    theirs = getattr(diffusers, name)(**SD, **{option: True})
    theirs.set_timesteps(N)
    torch.testing.assert_close(levels(model), theirs.sigmas.double(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", ["DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "DEISMultistepScheduler"])
def test_what_is_approximated_is_near_and_said(converted, name):
    model, comments = converted(name, **SD)
    assert "linspace is approximated by trailing" in comments
    torch.testing.assert_close(levels(model), given(getattr(diffusers, name)(**SD)), rtol=0.02, atol=0)


@pytest.mark.parametrize("name", ["DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "DEISMultistepScheduler"])
def test_flow_models_of_multistep_solvers(converted, name):
    options = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
    model, comments = converted(name, **options)
    assert model["denoiser"] == {"use": "continuous", "scaling": "flow"}
    assert model["sampler"]["discretization"] == {"use": "shifted", "shift": 3.0, "discretization": "flow"}
    assert "approximated by times from 1 to 1 / n" in comments
    sigmas = given(getattr(diffusers, name)(**options))
    torch.testing.assert_close(times(levels(model)), sigmas, rtol=0, atol=0.01)


@pytest.mark.parametrize(
    ("prediction", "scaling"),
    [("epsilon", "eps"), ("v_prediction", "v"), ("sample", {"use": "x0", "path": "vp"})],
)
def test_what_the_network_predicts(converted, prediction, scaling):
    model, _ = converted("DDIMScheduler", **SD, prediction_type=prediction)
    assert model["denoiser"] == {"use": "discrete", "scaling": scaling, "discretization": "ddpm"}
    table = sgm.build("denoisers", model["denoiser"]).sigmas.double()
    abar = diffusers.DDIMScheduler(**SD).alphas_cumprod.double()
    torch.testing.assert_close(table, ((1 - abar) / abar).sqrt(), rtol=1e-4, atol=0)


def test_zero_snr_begins_with_pure_noise(converted):
    options = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    model, comments = converted("DDIMScheduler", **SD, **options)
    assert sgm.build("denoisers", model["denoiser"]).takes_infinity
    assert levels(model)[0].isinf()
    assert "4096" not in comments
    _, comments = converted("EulerDiscreteScheduler", **SD, **options)
    assert "diffusers begins at sigma = 4096" in comments


def test_stable_video_diffusion(converted):
    ends = {"sigma_min": 0.002, "sigma_max": 700.0, "use_karras_sigmas": True}
    options = {"timestep_type": "continuous", "prediction_type": "v_prediction", "timestep_spacing": "leading"}
    model, comments = converted("EulerDiscreteScheduler", **SD, **ends, **options)
    assert model["denoiser"] == {"use": "continuous", "scaling": "v_edm_noise"}
    assert model["sampler"]["discretization"] == {"use": "edm", "sigma_min": 0.002, "sigma_max": 700.0}
    assert "approximated" not in comments


@pytest.mark.parametrize(
    ("algorithm", "order", "solver", "sampler", "approximated"),
    [
        ("dpmsolver++", 1, "midpoint", {"use": "euler_edm"}, False),
        ("dpmsolver++", 2, "midpoint", {"use": "dpmpp_2m"}, False),
        ("dpmsolver++", 2, "heun", {"use": "dpmpp_2m"}, True),
        ("dpmsolver++", 3, "midpoint", {"use": "dpmpp_3m_sde", "eta": 0.0}, True),
        ("sde-dpmsolver++", 1, "midpoint", {"use": "ddpm"}, False),
        ("sde-dpmsolver++", 2, "midpoint", {"use": "dpmpp_2m_sde"}, False),
        ("sde-dpmsolver++", 2, "heun", {"use": "dpmpp_2m_sde", "solver_type": "heun"}, False),
        ("sde-dpmsolver++", 3, "midpoint", {"use": "dpmpp_3m_sde"}, True),
        ("dpmsolver", 2, "midpoint", {"use": "deis", "order": 2}, True),
        ("sde-dpmsolver", 2, "midpoint", {"use": "dpmpp_2m_sde"}, True),
    ],
)
def test_dpm_solver(tmp_path, algorithm, order, solver, sampler, approximated):
    settings = {"algorithm_type": algorithm, "solver_order": order, "solver_type": solver}
    file = written(tmp_path, "DPMSolverMultistepScheduler", **settings, timestep_spacing="trailing")
    text = convert_scheduler(file)
    found = yaml.safe_load(text)["model"]["sampler"]
    assert {key: value for key, value in found.items() if key != "discretization"} == sampler
    assert ("approximated" in text) == approximated


def test_unipc_and_deis_keep_their_order(converted):
    model, _ = converted("UniPCMultistepScheduler", **SD, solver_order=3, solver_type="bh1")
    assert {**model["sampler"], "discretization": 0} == {
        "use": "unipc", "order": 3, "solver_type": "bh1", "discretization": 0,
    }  # fmt: skip
    model, _ = converted("DEISMultistepScheduler", **SD, solver_order=3)
    assert model["sampler"]["order"] == 3


@pytest.mark.parametrize(
    ("name", "sampler", "comment"),
    [
        ("PNDMScheduler", "ipndm", "PNDM is approximated by ipndm"),
        ("IPNDMScheduler", "ipndm", "approximated by times that are even in t"),
        ("LCMScheduler", "lcm", "boundary coefficients are left out"),
    ],
)
def test_others_are_approximated_and_say_so(converted, name, sampler, comment):
    model, comments = converted(name)
    assert model["sampler"]["use"] == sampler
    assert comment in comments


@pytest.mark.parametrize(
    ("name", "options", "comment"),
    [
        ("PNDMScheduler", {"set_alpha_to_one": False}, "set_alpha_to_one: false is dropped"),
        ("DDIMScheduler", {}, "clip_sample: true is dropped"),
        ("DDIMScheduler", {"thresholding": True}, "thresholding: true is dropped"),
        ("DDPMScheduler", {"variance_type": "fixed_large"}, 'variance_type: "fixed_large" is dropped'),
        ("EulerDiscreteScheduler", {}, "linspace is approximated"),
        ("EulerDiscreteScheduler", {"interpolation_type": "log_linear"}, "interpolation_type"),
        ("EulerDiscreteScheduler", {"use_beta_sigmas": True}, "use_beta_sigmas is approximated"),
        ("UniPCMultistepScheduler", {"predict_x0": False}, "predict_x0: false is dropped"),
        ("UniPCMultistepScheduler", {"disable_corrector": [0]}, "disable_corrector: [0] is dropped"),
        ("DPMSolverMultistepScheduler", {"euler_at_final": True}, "euler_at_final"),
    ],
)
def test_what_is_dropped_is_said(converted, name, options, comment):
    _, comments = converted(name, **options)
    assert comment in comments


def test_what_this_class_does_not_read_is_listed(tmp_path):
    text = convert_scheduler(written(tmp_path, "FlowMatchEulerDiscreteScheduler", skip_prk_steps=True, other=1))
    assert "# not read by this class: skip_prk_steps, other" in text


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_converts_by_its_defaults_and_its_parts_build(converted, name, tmp_path):
    if name == "DPMSolverSDEScheduler":  # needs torchsde to be made
        model = yaml.safe_load(convert_scheduler(written(tmp_path, name)))["model"]
        assert model["sampler"]["use"] == "dpmpp_sde"
    else:
        model, _ = converted(name)
    sgm.build("denoisers", model["denoiser"])
    sgm.build("discretizations", model["sampler"]["discretization"])


# --- the command ---------------------------------------------------------------------------------------------------


def written(folder: Path, name: str, **settings: Any) -> Path:
    file = folder / "scheduler_config.json"
    file.write_text(json.dumps({"_class_name": name, **settings}), encoding="utf-8")
    return file


def test_the_terminal_a_file_and_a_folder(tmp_path, capsys):
    (tmp_path / "scheduler").mkdir()
    file = written(tmp_path / "scheduler", "FlowMatchEulerDiscreteScheduler", shift=3.0)
    assert main(["convert", "scheduler", str(file)]) == 0
    text = capsys.readouterr().out
    assert text.startswith("# from diffusers' FlowMatchEulerDiscreteScheduler")
    new = tmp_path / "new.yaml"
    assert main(["convert", "scheduler", str(tmp_path), "--out", str(new)]) == 0
    assert new.read_text(encoding="utf-8") == text
    assert main(["convert", "scheduler", str(tmp_path), "--out", str(new)]) == 1
    assert "exists already" in capsys.readouterr().err


def test_the_result_merges_into_a_config(tmp_path):
    file = tmp_path / "flow.yaml"
    file.write_text(convert_scheduler(written(tmp_path, "FlowMatchEulerDiscreteScheduler", shift=3.0)))
    config = sgm.load_config("digits", file, overrides=["model.sampler.num_steps=4"])
    config.check()
    assert config["model.denoiser.scaling"] == "flow"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shift": 0}, "shift: expected a number, above 0, got 0"),
        ({"shift": "3"}, 'shift: expected a number, above 0, got "3"'),
        ({"shift": True}, "shift: expected a number, above 0, got true"),
        ({"shift": float("nan")}, "shift: expected a number, above 0, got NaN"),
        ({"num_train_timesteps": 1.5}, "num_train_timesteps: expected an integer from 2 to 1000000, got 1.5"),
        ({"num_train_timesteps": 10**9}, "num_train_timesteps: expected an integer"),
        ({"use_dynamic_shifting": "yes"}, 'use_dynamic_shifting: expected true or false, got "yes"'),
        ({"shift_terminal": 1.0}, "shift_terminal: expected a number, above 0, below 1, got 1.0"),
        (
            {"use_dynamic_shifting": True, "time_shift_type": "cubic"},
            'time_shift_type: "cubic" has no counterpart; these have: exponential, linear',
        ),
        ({"_class_name": "EulerDiscreteScheduler", "beta_schedule": "sigmoid"}, 'beta_schedule: "sigmoid" has no'),
        ({"_class_name": "EulerDiscreteScheduler", "trained_betas": [0.1]}, "trained_betas: a list of betas has no"),
        ({"_class_name": "EulerDiscreteScheduler", "prediction_type": ["v"]}, 'prediction_type: ["v"] has no counter'),
        ({"_class_name": "EulerDiscreteScheduler", "beta_end": 1.2}, "beta_end: expected a number, above 0, below 1"),
        (
            {"_class_name": "DDIMScheduler", "rescale_betas_zero_snr": True},
            "rescale_betas_zero_snr with prediction_type epsilon",
        ),
        (
            {"_class_name": "UniPCMultistepScheduler", "solver_order": 4},
            "solver_order: expected an integer from 1 to 3",
        ),
        ({"_class_name": "EulerDiscreteSchedular"}, "Did you mean 'EulerDiscreteScheduler'?"),
        ({"_class_name": "TCDScheduler"}, "_class_name: 'TCDScheduler' has no counterpart"),
        ({"_class_name": 3}, "the key _class_name is missing"),
    ],
)
def test_bad_settings_are_one_clear_line(tmp_path, capsys, settings, message):
    file = written(tmp_path, "FlowMatchEulerDiscreteScheduler", **settings)
    assert main(["convert", "scheduler", str(file)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{file}: " in line
    assert message in line


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "scheduler_config.json:1:2: not JSON"),
        (b"[1, 2]", "a mapping of settings is needed, not [1, 2]"),
        (b"\xff\xfe", "cannot be read"),
        (b"[" * 100_000, "cannot be read"),
        (b"{}", "the key _class_name is missing"),
    ],
)
def test_files_that_are_no_schedulers(tmp_path, content, message):
    file = tmp_path / "scheduler_config.json"
    file.write_bytes(content)
    with pytest.raises(SgmError) as error:
        convert_scheduler(file)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_folder_or_file_that_is_not_there(tmp_path, capsys):
    assert main(["convert", "scheduler", str(tmp_path)]) == 1
    assert "no scheduler_config.json in it" in capsys.readouterr().err
    assert main(["convert", "scheduler", str(tmp_path / "absent.json")]) == 1
    assert "no such file" in capsys.readouterr().err
    file = written(tmp_path, "IPNDMScheduler")
    assert main(["convert", "scheduler", str(file), str(file)]) == 1
    assert "one scheduler at a time" in capsys.readouterr().err
    assert main(["convert", "scheduler", str(file), "--to", "ldm"]) == 1


def test_the_last_level_of_ddim_is_that_of_timestep_0_where_it_says_so(converted):
    theirs = diffusers.DDIMScheduler(set_alpha_to_one=False)
    sigma = ((1 - theirs.final_alpha_cumprod) / theirs.final_alpha_cumprod).sqrt().item()
    model, _ = converted("DDIMScheduler", set_alpha_to_one=False)
    assert model["sampler"]["last_level"] == pytest.approx(sigma, rel=1e-4)  # theirs is float32
    assert "last_level" not in converted("DDIMScheduler")[0]["sampler"]
