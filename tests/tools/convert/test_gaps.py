"""`sgm convert config` writes what converts; what does not is `???` in the file, and a line on the terminal."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from support.old_configs import OLD

import sgm_core as sgm
from sgm_core.cli.app import main
from sgm_core.config.tree import ConfigError
from sgm_core.errors import SgmError
from sgm_plugins.tools.convert.config import Converted, convert_config


@pytest.fixture
def old(tmp_path):
    """Writes an old file, in which each text is replaced by another."""

    def write(*changes: tuple[str, str]) -> Path:
        text = OLD
        for before, after in changes:
            assert before in text
            text = text.replace(before, after)
        file = tmp_path / "old.yaml"
        file.write_text(text, encoding="utf-8")
        return file

    return write


def line_of(file: Path, part: str) -> int:
    text = file.read_text(encoding="utf-8")
    return text[: text.index(part)].count("\n") + 1


def left_to_give(made: Converted, folder: Path) -> list[str]:
    """The paths for which `sgm check` wants a value. It may say nothing else."""
    new = folder / "new.yaml"
    new.write_text(made.text, encoding="utf-8")
    try:
        sgm.load_config(new).check()
    except ConfigError as error:
        problems = error.problems
    else:
        problems = []
    assert [problem for problem in problems if "this value must be given" not in problem.message] == []
    return [problem.path for problem in problems]


def test_the_file_itself_has_no_gap(old, tmp_path):
    made = convert_config([old()])
    assert made.gaps == []
    assert "???" not in made.text
    assert left_to_give(made, tmp_path) == []


# --- classes that are not known ------------------------------------------------------------------------------------

ENGINE = ("sgm.models.diffusion.DiffusionEngine", "my.engine.Engine")
NETWORK = ("sgm.modules.diffusionmodules.openaimodel.UNetModel", "my.nets.Net")
SAMPLER = ("sgm.modules.diffusionmodules.sampling.EulerEDMSampler", "my.Sampler")
DATA = ("sgm.data.mnist.MNISTLoader", "my.Data")
EMBEDDER = ("sgm.modules.encoders.modules.FrozenOpenCLIPEmbedder2", "my.Embedder")


@pytest.mark.parametrize(
    ("change", "path"),
    [
        (ENGINE, "model.use"),
        (NETWORK, "model.network.use"),
        (SAMPLER, "model.sampler.use"),
        (DATA, "data.use"),
        (EMBEDDER, "model.conditioner.embedders[0].embedder.use"),
    ],
)
def test_a_class_that_is_not_known_is_one_gap_and_shows_what_is_below_it(old, tmp_path, change, path):
    file = old(change)
    made = convert_config([file])
    [gap] = made.gaps
    assert gap.origin.line == line_of(file, change[1])
    assert change[1] in gap.message
    assert f"was {change[1]} (old.yaml:{gap.origin.line})" in " ".join(made.text.split())
    assert left_to_give(made, tmp_path) == [path]
    whole, changed = (yaml.safe_load(convert_config([each]).text) for each in (old(), old(change)))
    below = {
        ENGINE: ["model", "sampler"],
        NETWORK: ["model", "network", "channel_mult"],
        SAMPLER: ["model", "sampler", "guider"],
        DATA: ["data", "batch_size"],
        EMBEDDER: ["model", "conditioner", "embedders", 0, "input_key"],
    }[change]
    for key in below:
        whole, changed = whole[key], changed[key]
    assert whole == changed


def test_all_of_them_at_once(old, tmp_path):
    made = convert_config([old(ENGINE, NETWORK, SAMPLER, DATA, EMBEDDER)])
    assert len(made.gaps) == 5
    assert left_to_give(made, tmp_path) == ["model.use", "data.use"]  # what is below waits for these


def test_filled_in_it_passes_the_check(old, tmp_path):
    text = convert_config([old(SAMPLER, DATA)]).text
    for name in ("euler_edm", "mnist\n  root: data/mnist"):  # in the order of the file
        text = text.replace("use: ???", f"use: {name}", 1)
    assert left_to_give(Converted(text, []), tmp_path) == []


def test_a_parameter_that_is_not_known_is_a_comment_and_a_gap(old, tmp_path):
    file = old(("        in_channels: 1\n", "        in_channels: 1\n        my_flag: true\n"))
    made = convert_config([file])
    [gap] = made.gaps
    assert (gap.origin.line, gap.path) == (line_of(file, "my_flag"), "model.network_config.params.my_flag")
    assert f"# ??? params.my_flag: true (old.yaml:{gap.origin.line}: this parameter is not known)\n" in made.text
    assert left_to_give(made, tmp_path) == []


def test_what_a_script_named_is_the_one_gap_of_a_model_without_a_target(old, tmp_path):
    made = convert_config([old(("  target: sgm.models.diffusion.DiffusionEngine\n", ""))])
    assert [gap.path for gap in made.gaps] == ["model.use"]
    assert yaml.safe_load(made.text)["model"]["network"]["use"] == "unet"
    assert left_to_give(made, tmp_path) == ["model.use"]


def test_the_rate_of_a_part_that_was_trained_by_itself_is_left_out(old):
    made = convert_config(
        [old(("    first_stage_config:\n", "    first_stage_config:\n      base_learning_rate: 1\n"))]
    )
    assert made.gaps == []
    assert "left out base_learning_rate: 1 (the model says it)" in made.text


# --- the module counts ---------------------------------------------------------------------------------------------


def test_a_class_of_the_same_name_in_another_module_is_a_gap(old, tmp_path):
    file = old(("sgm.modules.diffusionmodules.loss.Standard", "sgm.experimental.my_loss.Standard"))
    made = convert_config([file])
    [gap] = made.gaps
    assert "StandardDiffusionLoss is another class: compare them" in gap.message
    assert left_to_give(made, tmp_path) == ["model.loss_fn.use"]
    assert yaml.safe_load(made.text)["model"]["loss_fn"]["weighting"] == {"use": "edm", "sigma_data": 1.0}


def test_a_renamed_copy_of_the_package_is_named(old, capsys):
    file = old(("sgm.", "vwm."))
    gaps = convert_config([file]).gaps
    assert len(gaps) == OLD.count("sgm.")
    assert "If vwm is a copy of sgm: --package vwm=sgm" in gaps[0].message
    assert convert_config([file], ["vwm=sgm"]) == convert_config([old()])
    assert main(["convert", "config", str(old(("sgm.", "a.b.sgm."))), "--package", "a.b.sgm=sgm"]) == 0
    capsys.readouterr()


def test_a_package_that_is_no_pair_is_an_error(old):
    for text in ("vwm", "=sgm", "vwm="):
        with pytest.raises(SgmError, match="write COPY=ORIGINAL, such as vwm=sgm"):
            convert_config([old()], [text])


# --- values from outside -------------------------------------------------------------------------------------------


def test_frames_that_the_scripts_gave_are_to_be_given(old, tmp_path):
    file = old(("VanillaCFG", "LinearPredictionGuider"), ("scale: 2.0", "max_scale: 2.5"))
    made = convert_config([file])
    assert left_to_give(made, tmp_path) == ["model.sampler.guider.num_frames"]
    assert made.gaps[0].origin.line == line_of(file, "guider_config")
    assert "simple_video_sample.py gave it: 14 for svd" in made.text


def test_steps_that_the_scripts_gave_are_to_be_given(old, tmp_path):
    made = convert_config([old(("        num_steps: 5\n", ""))])
    assert left_to_give(made, tmp_path) == ["model.sampler.num_steps"]
    assert "was left to the scripts" in made.text


@pytest.mark.parametrize("text", ["${oc.env:MY_STEPS}", "${data.nothing}", "${a", "${model.params.sampler_config.x}"])
def test_a_reference_that_cannot_be_resolved_is_a_gap_that_shows_it(old, tmp_path, text):
    file = old(("num_steps: 5", f'num_steps: "{text}"'))
    made = convert_config([file])
    [gap] = made.gaps
    assert (gap.origin.line, gap.path) == (line_of(file, "num_steps"), "model.sampler_config.num_steps")
    assert f"# was {text} (old.yaml:{gap.origin.line})" in made.text
    assert left_to_give(made, tmp_path) == ["model.sampler.num_steps"]


def test_one_in_what_is_left_out_is_no_gap(old, tmp_path):
    made = convert_config([old(("num_steps: 5", "num_steps: 5\n        device: ${oc.env:MY_DEVICE}"))])
    assert made.gaps == []
    assert "left out device: ${oc.env:MY_DEVICE} (a sampler works where the noise is)" in made.text
    assert left_to_give(made, tmp_path) == []


def test_names_at_the_top_that_references_use_are_no_gap(old):
    made = convert_config(
        [old(("model:\n  base", "STEPS: 7\nmodel:\n  base"), ("num_steps: 5", "num_steps: ${STEPS}"))]
    )
    assert made.gaps == []
    assert yaml.safe_load(made.text)["model"]["sampler"]["num_steps"] == 7
    assert "left out STEPS: 7" in made.text


# --- older layouts -------------------------------------------------------------------------------------------------

WEIGHTED = """        weighting_config:
          target: sgm.modules.diffusionmodules.denoiser_weighting.EDMWeighting
          params: {sigma_data: 0.7}
        scaling_config:
"""


def test_the_weighting_of_the_first_release_moves_to_the_loss(old, tmp_path):
    start = OLD.index("        loss_weighting_config")
    own = OLD[start : OLD.index("        sigma_sampler_config")]
    file = old(("        scaling_config:\n", WEIGHTED), (own, ""))
    made = convert_config([file])
    model = yaml.safe_load(made.text)["model"]
    assert made.gaps == []
    assert model["loss_fn"] == {
        "use": "standard",
        "sigma_sampler": "edm",
        "weighting": {"use": "edm", "sigma_data": 0.7},
    }
    assert model["denoiser"] == {"use": "continuous", "scaling": {"use": "edm", "sigma_data": 1.0}}
    assert left_to_give(made, tmp_path) == []


def test_it_does_not_where_the_loss_has_one(old):
    made = convert_config([old(("        scaling_config:\n", WEIGHTED))])
    assert yaml.safe_load(made.text)["model"]["loss_fn"]["weighting"] == {"use": "edm", "sigma_data": 1.0}
    assert "left out weighting_config: sgm.modules.diffusionmodules.denoiser_weighting.EDMWeighting" in made.text


def test_the_first_release_was_called_as_latent_diffusion(old):
    assert convert_config([old(("sgm.", "ldm."))]) == convert_config([old()])


def test_old_names_of_parameters(old, tmp_path):
    network = (
        "num_head_channels: 32\n        use_spatial_transformer: true\n        legacy: false\n        use_fp16: false\n"
    )
    stage = (
        "AutoencoderKLInferenceWrapper\n      params: {embed_dim: 4, ddconfig: {double_z: true, z_channels: 4, "
        "resolution: 32, in_channels: 1, out_ch: 1, ch: 32, ch_mult: [1, 2], num_res_blocks: 1, attn_resolutions: []}}"
    )
    made = convert_config([old(("num_head_channels: 32\n", network), ("IdentityFirstStage", stage))])
    assert made.gaps == []
    assert yaml.safe_load(made.text)["model"]["first_stage"]["use"] == "autoencoder_kl"
    assert left_to_give(made, tmp_path) == []


def test_weights_of_open_clip_in_a_file_are_known_by_their_architecture(old, tmp_path):
    made = convert_config([old(("laion2b_s39b_b160k", "weights/open_clip_pytorch_model.bin"))])
    assert made.gaps == []
    embedder = yaml.safe_load(made.text)["model"]["conditioner"]["embedders"][0]["embedder"]
    assert embedder["model"] == "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k"
    assert "was the file weights/open_clip_pytorch_model.bin" in made.text
    other = convert_config([old(("laion2b_s39b_b160k", "weights/mine.bin"), ("ViT-bigG-14", "RN50"))])
    assert left_to_give(other, tmp_path) == ["model.conditioner.embedders[0].embedder.model"]


# --- the terminal --------------------------------------------------------------------------------------------------


def test_gaps_are_listed_with_their_lines_and_the_exit_code_is_1(old, tmp_path, capsys):
    file, new = old(NETWORK, DATA), tmp_path / "new.yaml"
    assert main(["convert", "config", str(file), "--out", str(new)]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith(f"{file}:{line_of(file, 'my.nets.Net')}:")
    assert lines[1].startswith(f"{file}:{line_of(file, 'my.Data')}:")
    assert lines[2] == f"{new}: written, with a `???` for each gap above, 2 in all"
    assert new.read_text().count("use: ???") == 2


def test_characters_of_the_old_file_are_escaped_in_the_list_and_in_the_file(old, capsys):
    odd = "\\x1b[31m \\u009b \\u2028 \\ufffe \\u202e \\u0085"
    file = old((NETWORK[0], f'"{odd}"'), ("  base_learning", "  # \u202e \u200b\n  base_learning"))
    assert main(["convert", "config", str(file)]) == 1
    shown = capsys.readouterr()
    assert all(c.isprintable() or c == "\n" for c in shown.out + shown.err)
    for escape in ("\\x1b[31m", "\\x9b", "\\u2028", "\\ufffe", "\\u202e", "\\x85"):
        assert escape in shown.err
    assert "# \\u202e \\u200b\n" in shown.out


def test_a_file_name_that_is_no_text_is_written_escaped(old, tmp_path, capsys):
    file = old().rename(tmp_path / "o\udcffld.yaml")
    new = tmp_path / "n\udcffew.yaml"
    assert main(["convert", "config", str(file), "--out", str(new)]) == 0
    assert "# Converted from o\\udcffld.yaml" in new.read_text(encoding="utf-8")
    assert "n\\udcffew.yaml: written" in capsys.readouterr().out
