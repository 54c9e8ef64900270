"""What a picture looks like while it is drawn."""

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from sgm_core.cli.app import main
from sgm_core.errors import SgmError
from sgm_plugins.first_stages.tiny import TinyAutoencoder
from sgm_plugins.tools.sampling.preview import Preview, read_decoder


def tiny(embed_dim=4):
    torch.manual_seed(0)
    return TinyAutoencoder(embed_dim=embed_dim, width=8, encoder_blocks=[1, 1], decoder_blocks=[2, 0, 1])


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "tiny.safetensors"
    save_file(tiny().state_dict(), path)
    return path


def test_it_shows_the_guided_estimate_every_few_steps_and_changes_no_picture(models, file):
    pipe, seen = models("sd_2_1"), []
    options = {"seeds": [1, 2], "steps": 5, "sampler": "euler_edm", "scale": 4.0}
    plain = pipe("a cat", **options)
    preview = Preview(file, lambda step, images: seen.append((step, images)), every=2)
    steps = []
    shown = pipe("a cat", **options, preview=preview, progress=lambda step, _: steps.append(step))
    assert all(torch.equal(a.image, b.image) for a, b in zip(plain, shown, strict=True))
    assert [step for step, _ in seen] == [2, 4, 5]
    assert steps == [1, 2, 3, 4, 5]
    cells = [side // pipe.model.cell[0] for side in plain[0].image.shape[1:]]
    assert seen[-1][1].shape == (2, 3, 4 * cells[0], 4 * cells[1])
    assert not torch.equal(seen[0][1], seen[-1][1])


def test_the_last_one_is_of_the_latents_that_are_decoded(models, file, monkeypatch):
    pipe, seen, latents = models("sd_2_1"), [], []
    decode = pipe.model.decode
    monkeypatch.setattr(pipe.model, "decode", lambda z, *rest: (latents.append(z), decode(z, *rest))[1])
    pipe("a cat", seeds=[1], steps=3, sampler="euler_edm", preview=Preview(file, lambda _, x: seen.append(x), every=9))
    with torch.no_grad():
        torch.testing.assert_close(seen[-1], tiny().decode(latents[0].float()), rtol=1e-4, atol=1e-4)


def test_the_layout_of_its_authors_is_read_too(file, tmp_path):
    """Their decoder is a file of its own, in which the bound of the latents counts as a layer."""
    state = tiny().decoder.state_dict()
    theirs = {}
    for key, value in state.items():
        _, n, rest = key.split(".", 2)
        theirs[f"{int(n) + 1}.{rest}"] = value
    save_file(theirs, tmp_path / "taesd_decoder.safetensors")
    for path in (tmp_path / "taesd_decoder.safetensors", tmp_path):
        found = read_decoder(path).state_dict()
        assert found.keys() == state.keys()
        assert all(torch.equal(found[key], state[key]) for key in state)


def test_the_command_writes_a_file(models, file, tmp_path):
    command = ["sample", str(models.checkpoint("sd_2_1")), "--prompt", "a cat", "-n", "2", "--steps", "3"]
    assert main([*command, "--preview", str(file), "--out", str(tmp_path / "out")]) == 0
    with Image.open(tmp_path / "out" / "preview.png") as picture:
        assert picture.width == 2 * picture.height


def test_what_is_no_tiny_autoencoder_of_the_model_is_refused(models, file, tmp_path):
    with pytest.raises(SgmError, match=r"models.*no tiny autoencoder here|no such checkpoint"):
        Preview(tmp_path / "models", print)
    with pytest.raises(SgmError, match=r"sd_2_1.*no decoder of a tiny autoencoder"):
        Preview(models.checkpoint("sd_2_1"), print)
    save_file(tiny(16).state_dict(), tmp_path / "flux.safetensors")
    with pytest.raises(SgmError, match=r"decodes latents of 16 channels, and this model has 4"):
        models("sd_2_1")("a cat", steps=2, preview=Preview(tmp_path / "flux.safetensors", print))
    with pytest.raises(SgmError, match="at least 1"):
        Preview(file, print, every=0)
