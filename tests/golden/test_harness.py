"""The harness finds mistakes: a comparison that cannot fail says nothing."""

from __future__ import annotations

import importlib
import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from golden.harness import HERE, Case, MismatchError, find_cases, run
from golden.reference import MISSING, NotBuiltError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import gelu

from sgm_plugins.networks.attention import Attention
from sgm_plugins.samplers.linear_multistep import coefficients
from sgm_plugins.scalings import EDMScaling
from sgm_plugins.sinusoidal import timestep_embedding

AREAS = sorted(path.stem for path in (HERE / "areas").glob("*.py"))
SIMPLE = HERE / "denoiser__edm"


def first_case(area: str) -> Path:
    """The first case of an area that ours can be compared with."""
    for folder in find_cases(HERE):
        if folder.name.startswith(f"{area}__"):
            try:
                run(folder)
            except NotBuiltError:
                continue
            return folder
    raise AssertionError(f"no case of area {area}")


def planted(folder: Path, tmp_path: Path, change: Callable[[dict[str, Tensor]], None]) -> Path:
    """A copy of a case with other tensors."""
    copy = tmp_path / folder.name
    shutil.copytree(folder, copy, dirs_exist_ok=True)
    tensors = load_file(folder / "tensors.safetensors")
    change(tensors)
    save_file(tensors, copy / "tensors.safetensors")
    return copy


def off(tensor: Tensor, relative: float) -> Tensor:
    """The tensor with its largest entry wrong; an integer wrong by one."""
    wrong = tensor.clone().reshape(-1)
    largest = wrong.abs().argmax()
    by = 1 if not tensor.is_floating_point() else relative * (wrong[largest].abs().item() or 1.0)
    wrong[largest] += by
    return wrong.reshape(tensor.shape)


@pytest.mark.parametrize("area", AREAS)
def test_an_output_that_is_wrong_by_1e_4_fails_the_case(area: str, tmp_path: Path) -> None:
    folder = first_case(area)
    compared = sorted(run(folder).compared)
    for name in compared[:: max(1, len(compared) // 5)]:
        wrong = planted(folder, tmp_path, lambda tensors, name=name: tensors.update({name: off(tensors[name], 1e-4)}))
        with pytest.raises(MismatchError, match=name.replace(".", r"\.")):
            run(wrong)


def test_a_float64_output_that_is_wrong_by_1e_9_fails_the_case(tmp_path: Path) -> None:
    folder, name = HERE / "sampler__heun_edm", "cfg5.ddpm.out"
    wrong = planted(folder, tmp_path, lambda tensors: tensors.update({name: off(tensors[name], 1e-9)}))
    with pytest.raises(MismatchError, match=r"cfg5\.ddpm\.out"):
        run(wrong)


@pytest.mark.parametrize("area", AREAS)
def test_an_output_that_no_runner_knows_fails_the_case(area: str, tmp_path: Path) -> None:
    folder = first_case(area)
    extra = planted(folder, tmp_path, lambda tensors: tensors.update({"another.output": torch.ones(2)}))
    with pytest.raises((MismatchError, ValueError, KeyError, AssertionError)):
        run(extra)


def test_an_output_that_case_json_promises_is_not_forgotten(tmp_path: Path) -> None:
    without = planted(SIMPLE, tmp_path, lambda tensors: tensors.__delitem__("denoised"))
    with pytest.raises(MismatchError, match="denoised"):
        run(without)


def test_an_empty_folder_fails(tmp_path: Path) -> None:
    (tmp_path / "denoiser__empty").mkdir()
    assert [case.name for case in find_cases(tmp_path)] == ["denoiser__empty"]
    with pytest.raises(MismatchError, match=r"no case\.json"):
        run(tmp_path / "denoiser__empty")


def test_an_unknown_area_fails(tmp_path: Path) -> None:
    copy = planted(SIMPLE, tmp_path, lambda tensors: None)
    (copy / "case.json").write_text(json.dumps({**json.loads((copy / "case.json").read_text()), "area": "denoyser"}))
    with pytest.raises(MismatchError, match="unknown area 'denoyser'"):
        run(copy)


def test_an_unknown_class_or_parameter_of_the_reference_fails(tmp_path: Path) -> None:
    copy = planted(SIMPLE, tmp_path, lambda tensors: None)
    spec = json.loads((copy / "case.json").read_text())
    (copy / "case.json").write_text(json.dumps({**spec, "denoiser": "AnotherDenoiser"}))
    with pytest.raises(KeyError, match="AnotherDenoiser"):
        run(copy)
    spec["config"]["scaling_config"]["params"]["sigma_dota"] = 1.0
    (copy / "case.json").write_text(json.dumps(spec))
    with pytest.raises(TypeError, match="sigma_dota"):
        run(copy)


def test_a_case_in_which_nothing_is_compared_fails(tmp_path: Path) -> None:
    def keep_inputs(tensors: dict[str, Tensor]) -> None:
        for name in tensors.keys() - {"x", "sigma", "c_vector", "uc_vector"}:
            del tensors[name]

    copy = planted(HERE / "guider__all", tmp_path, keep_inputs)
    spec = json.loads((copy / "case.json").read_text())
    (copy / "case.json").write_text(json.dumps({**spec, "guiders": {}, "tensors": {}}))
    with pytest.raises(MismatchError, match="nothing was compared"):
        run(copy)


@pytest.mark.parametrize("area", sorted(MISSING.keys() & {folder.name.split("__")[0] for folder in find_cases(HERE)}))
def test_a_missing_area_is_skipped_with_its_name(area: str) -> None:
    folder = next(folder for folder in find_cases(HERE) if folder.name.startswith(f"{area}__"))
    with pytest.raises(NotBuiltError, match="not built yet"):
        run(folder)
    assert area not in AREAS


def with_parameter(folder: Path, name: str, value: bool) -> None:
    """Give the regularizer of a copied case a parameter."""
    spec = json.loads((folder / "case.json").read_text())
    spec["config"]["regularizer_config"].setdefault("params", {})[name] = value
    (folder / "case.json").write_text(json.dumps(spec))


@pytest.mark.parametrize("samples", [True, False])
def test_whether_latents_are_drawn_is_read_from_the_case(tmp_path: Path, samples: bool) -> None:
    copy = planted(HERE / "autoencoder__engine_gaussian_regularizer", tmp_path, lambda tensors: None)
    with_parameter(copy, "sample", samples)
    assert "z_mode" in run(copy).compared


def test_the_shape_of_codes_is_read_from_the_case(tmp_path: Path) -> None:
    name = "log.min_encoding_indices"
    copy = planted(HERE / "autoencoder__vq_legacy", tmp_path, lambda tensors: None)
    with_parameter(copy, "sane_index_shape", True)
    with pytest.raises(MismatchError, match="min_encoding_indices"):
        run(copy)
    sane = planted(copy, tmp_path / "sane", lambda tensors: tensors.update({name: tensors[name].view(2, 8, 8)}))
    assert name in run(sane).compared


def test_what_differs_in_kind_is_found() -> None:
    case = Case(SIMPLE)
    right = case.tensors["denoised"]
    case.check("denoised", right)
    infinite = right.clone()
    infinite[0] = math.nan
    for wrong in (right.double(), right[None], right[:1], infinite):
        with pytest.raises(MismatchError, match="denoised"):
            case.check("denoised", wrong)


def test_a_non_finite_value_must_be_the_same() -> None:
    case, inf, nan = Case(SIMPLE), math.inf, math.nan
    case.close("same", torch.tensor([inf, 1.0]), torch.tensor([inf, 1.0]))
    for wrong in ([-inf, 1.0], [1.0, 1.0], [inf, inf], [nan, 1.0]):
        with pytest.raises(MismatchError):
            case.close("other", torch.tensor(wrong), torch.tensor([inf, 1.0]))
    case.close("same", torch.tensor([nan, 1.0]), torch.tensor([nan, 1.0]))
    for wrong in ([0.0, 1.0], [inf, 1.0], [nan, nan]):
        with pytest.raises(MismatchError):
            case.close("other", torch.tensor(wrong), torch.tensor([nan, 1.0]))


def test_what_the_reference_gets_wrong_is_left_out_and_all_else_compared(tmp_path: Path) -> None:
    def with_edm_scaling(tensors: dict[str, Tensor]) -> None:
        c_skip, c_out, c_in, _ = (c.reshape(-1, 1, 1, 1) for c in EDMScaling()(tensors["quantized_sigma"]))
        tensors["net_in"] = c_in * tensors["input"]
        tensors["denoised"] = c_skip * tensors["input"] + c_out * tensors["net_out"]
        tensors["net_c_noise"] = torch.zeros_like(tensors["net_c_noise"])  # as the reference answers

    copy = planted(HERE / "denoiser__discrete_eps_sdxl", tmp_path, with_edm_scaling)
    spec = json.loads((copy / "case.json").read_text())
    spec["config"]["scaling_config"] = {"target": "sgm.modules.diffusionmodules.denoiser_scaling.EDMScaling"}
    (copy / "case.json").write_text(json.dumps(spec))
    case = run(copy)
    assert set(case.left_out) == {"net_c_noise"}
    assert {"denoised", "net_in", "sigma_to_idx"} <= case.compared


def test_a_changed_input_fails() -> None:
    case = Case(SIMPLE)
    case.check("denoised", case.tensors["denoised"])
    case.given("input").mul_(2)
    with pytest.raises(MismatchError, match="input was changed"):
        case.close_account()


def test_a_folder_without_cases_fails(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "misspelt"):
        with pytest.raises(MismatchError, match="no golden cases"):
            find_cases(folder)


def test_the_golden_dir_option_runs_another_folder(tmp_path: Path, python: Any) -> None:
    (tmp_path / "cases").mkdir()
    shutil.copytree(SIMPLE, tmp_path / "cases" / "denoiser__right")
    wrong = planted(SIMPLE, tmp_path, lambda tensors: tensors.update(denoised=off(tensors["denoised"], 1e-4)))
    wrong.rename(tmp_path / "cases" / "denoiser__wrong")
    command = ["-m", "pytest", "-v", "-p", "no:cacheprovider", HERE / "test_goldens.py"]
    result = python(*command, "--golden-dir", tmp_path / "cases", cwd=HERE.parents[1])
    assert result.returncode == 1
    assert "1 failed, 1 passed" in result.stdout
    assert "denoiser__wrong: denoised is off by" in result.stdout


# --- mistakes in our own code --------------------------------------------------------------------------------------


def half_the_heads(self: Attention, tokens: Tensor) -> Tensor:
    return tokens.unflatten(2, (max(self.num_heads // 2, 1), -1)).transpose(1, 2)


def swapped(t: Tensor, dim: int, max_period: float = 10000, repeat_only: bool = False) -> Tensor:
    """Sines before cosines."""
    features = timestep_embedding(t, dim, max_period, repeat_only)
    cosines, sines, rest = features.split([dim // 2, dim // 2, dim % 2], dim=1)
    return features if repeat_only else torch.cat([sines, cosines, rest], dim=1)


def longer_steps(sigmas: Sequence[float]) -> Iterator[tuple[float, float]]:
    """Each step, but that to zero, goes 1e-4 of its length too far."""
    for sigma, sigma_next in pairwise(sigmas):
        yield sigma, sigma_next + 1e-4 * (sigma_next - sigma) if sigma_next > 0 else sigma_next


def put_in(monkeypatch: pytest.MonkeyPatch, mistake: object, *places: str) -> None:
    """Replace `module:attribute` of each place."""
    for place in places:
        module, _, names = place.partition(":")
        *path, name = names.split(".")
        target = importlib.import_module(module)
        for part in path:
            target = getattr(target, part)
        monkeypatch.setattr(target, name, mistake)


MULTI_HEAD = (
    "unet__sd1_style_numheads8",
    "unet__sd21_style_nonsquare",
    "unet__sdxl_style",
    "unet__uncond_attn_conv_proj",
    "unet__updown_scaleshift_intclasses",
    "unet__video_svd_style",
)
UNETS = tuple(folder.name for folder in find_cases(HERE) if folder.name.startswith("unet__"))
SHALLOW = "unet__mnist_cond_config_verbatim"
"""Its one transformer is in the middle: another GELU there moves the output by 2e-6 of its largest value."""
TIMESTEPS = ("sgm_plugins.networks.skeleton", "sgm_plugins.embedders.timestep", "golden.areas.timestep_embedding")


@pytest.mark.parametrize("case", MULTI_HEAD)
def test_attention_with_half_the_heads_fails_each_network_that_has_more_than_one(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(HERE / case)
    put_in(monkeypatch, half_the_heads, "sgm_plugins.networks.attention:Attention._split")
    with pytest.raises(MismatchError, match="is off by"):
        run(HERE / case)


@pytest.mark.parametrize("case", ["timestep_embedding__all", "conditioner__sdxl_like", *UNETS])
def test_sines_before_cosines_fail_whatever_embeds_a_number(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run(HERE / case)
    put_in(monkeypatch, swapped, *(f"{module}:timestep_embedding" for module in TIMESTEPS))
    with pytest.raises(MismatchError, match="is off by"):
        run(HERE / case)


@pytest.mark.parametrize("case", sorted({*UNETS} - {SHALLOW}))
def test_the_tanh_approximation_of_gelu_fails_each_network(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run(HERE / case)
    put_in(monkeypatch, partial(gelu, approximate="tanh"), "sgm_plugins.networks.feed_forward:gelu")
    with pytest.raises(MismatchError, match="is off by"):
        run(HERE / case)


SAMPLERS = tuple(folder.name for folder in find_cases(HERE) if folder.name.startswith("sampler__"))


@pytest.mark.parametrize("case", SAMPLERS)
def test_steps_that_are_too_long_by_1e_4_fail_each_sampler(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run(HERE / case)
    files = (HERE.parents[1] / "sgm_plugins" / "samplers").glob("*.py")
    loops = [f"sgm_plugins.samplers.{file.stem}" for file in files if "in enumerate(pairwise(" in file.read_text()]
    assert len(loops) == 13, "each sampler's loop is over the pairs of its levels"
    put_in(monkeypatch, longer_steps, *(f"{module}:pairwise" for module in loops))
    with pytest.raises(MismatchError, match=r"is off by|levels of step 0 is"):
        run(HERE / case)


def test_weights_of_the_multistep_method_that_are_off_by_1e_4_fail_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def heavier(past: Sequence[float], sigma_next: float) -> list[float]:
        return [1.0001 * weight for weight in coefficients(past, sigma_next)]

    run(HERE / "sampler__linear_multistep")
    put_in(monkeypatch, heavier, "sgm_plugins.samplers.linear_multistep:coefficients")
    with pytest.raises(MismatchError, match="lms_coeffs_f64 is off by"):
        run(HERE / "sampler__linear_multistep")
