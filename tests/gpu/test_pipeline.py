"""Pipelines on a GPU: the picture of the CPU, the same bytes twice, and idle parts on the host. Skipped without one."""

import shutil
from pathlib import Path

import pytest
import torch
from support.tiny_public_models import write_checkpoint

from sgm_core.cli.app import main
from sgm_plugins.tools.sampling.pipeline import Pipeline

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for name in ("sd_xl_base", "sd_xl_refiner", "svd"):
        write_checkpoint(name, folder)
    return folder


def given(name: str) -> dict:
    image = torch.linspace(-1, 1, 16).expand(3, 16, 16)
    return {"init_image": image, "steps": 3} if name == "svd" else {"prompts": "a cat", "steps": 3, "negative": "a dog"}


@pytest.mark.parametrize("name", ["sd_xl_base", "svd"])
def test_a_picture_is_that_of_the_cpu(folder, name):
    path = folder / f"{name}.safetensors"
    on_cpu, on_gpu = (Pipeline.load(path, device=device)(**given(name))[0].image for device in ("cpu", "cuda"))
    assert on_gpu.device.type == "cpu"
    torch.testing.assert_close(on_gpu, on_cpu, atol=2e-2, rtol=0)  # TF32 in convolutions


@pytest.mark.parametrize("name", ["sd_xl_base", "svd"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_idle_parts_are_on_the_host_and_the_picture_is_the_same(folder, name, dtype):
    path = folder / f"{name}.safetensors"
    kept, offloaded = (Pipeline.load(path, dtype=dtype, device="cuda", offload=offload) for offload in (False, True))
    engine = offloaded.model.engine
    parts = {"conditioner": engine.conditioner, "network": engine.model, "first_stage": engine.first_stage_model}
    met = set()

    def note(name):
        def hook(*_):
            where = {other: {p.device.type for p in part.parameters()} for other, part in parts.items()}
            assert where == {other: {"cuda" if other == name else "cpu"} for other in parts}
            met.add(name)

        return hook

    for part, module in {**parts, "first_stage": engine.first_stage_model.decoder}.items():
        module.register_forward_pre_hook(note(part))
    assert torch.equal(offloaded(**given(name))[0].image, kept(**given(name))[0].image)
    assert met == set(parts)
    assert {p.device.type for p in engine.model.parameters()} == {"cpu"}


def test_a_picture_is_drawn_again_byte_for_byte(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("sd_xl_base.safetensors", "sd_xl_refiner.safetensors"):
        shutil.copy(folder / name, name)
    drawn = [
        "sample",
        "sd_xl_base.safetensors",
        "--prompt",
        "a cat",
        "--steps",
        "6",
        "--dtype",
        "bf16",
        "--device",
        "cuda",
    ]
    assert main([*drawn, "--refiner", "sd_xl_refiner.safetensors", "--sampler", "euler_ancestral", "-n", "3"]) == 0
    again = ["sample", "--like", "samples/seed-000001.png", "--out", "again", "--device", "cuda"]
    assert main([*again, "--offload"]) == 0
    assert Path("again/seed-000001.png").read_bytes() == Path("samples/seed-000001.png").read_bytes()
