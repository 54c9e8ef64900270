"""Truths about pictures, shown with tiny versions of the public models."""

import re
import warnings
from dataclasses import replace

import pytest
import torch
from PIL import Image

from sgm_core.errors import SgmError
from sgm_core.pictures.labels import to_pil
from sgm_core.roles import FirstStage
from sgm_plugins.tools.sampling.parts import Parts
from sgm_plugins.tools.sampling.pipeline import Pipeline
from tests.support.tiny_public_models import FRAMES, IMAGES, VIDEOS, write_checkpoint

EULER = {"use": "euler_edm"}
ANCESTRAL = {"use": "euler_ancestral"}


def draw(pipe, *prompts, **options):
    """The images of a request, (n, ...)."""
    return torch.stack([picture.image for picture in pipe(prompts, **({"steps": 3} | options))])


def differs(a, b):
    return a.shape == b.shape and (a - b).abs().max().item() > 1e-3


# --- text to image -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", IMAGES)
def test_a_picture_is_what_the_engine_draws_with_the_usual_conditions(models, name):
    pipe = models(name)
    entries = {"txt": ["a cat", "a dog"]}
    away = dict(entries)
    sizes = {"original_size_as_tuple": 16.0, "target_size_as_tuple": 16.0, "crop_coords_top_left": 0.0}
    for key, number in sizes.items():
        if key in pipe.model.keys:
            entries[key] = away[key] = [[number, number]] * 2
    if "aesthetic_score" in pipe.model.keys:
        entries["aesthetic_score"], away["aesthetic_score"] = [6.0, 6.0], [2.5, 2.5]
    away["txt"] = ["blurry", "blurry"]
    expected = pipe.model.engine.generate(entries, uncond=away, seed=[5, 9], num_steps=3)
    assert torch.equal(draw(pipe, "a cat", "a dog", negative="blurry", seeds=[5, 9]), expected)


@pytest.mark.parametrize("name", IMAGES)
def test_seed_prompt_negative_prompt_and_scale_count(models, name):
    pipe = models(name)
    base = draw(pipe, "a cat")
    assert torch.equal(draw(pipe, "a cat"), base)
    changes = [{"seeds": [1]}, {"scale": 2.0}, {"negative": "a dog"}, {"steps": 4}, {"sampler": "euler_ancestral"}]
    for change in changes:
        assert differs(draw(pipe, "a cat", **change), base), change
    assert differs(draw(pipe, "a dog"), base)
    assert draw(pipe, "a cat", size=(24, 8)).shape == (1, 3, 8, 24)


def test_without_a_negative_prompt_guidance_moves_away_from_the_models_own_empty_state(models):
    assert torch.equal(draw(models("sd_2_1"), "a cat"), draw(models("sd_2_1"), "a cat", negative=""))
    assert differs(draw(models("sd_xl_base"), "a cat"), draw(models("sd_xl_base"), "a cat", negative=""))  # zeros


def test_a_condition_replaces_what_is_filled_in(models):
    pipe = models("sd_xl_base")
    base = draw(pipe, "a cat")
    for key in ("original_size_as_tuple", "target_size_as_tuple"):
        assert torch.equal(draw(pipe, "a cat", cond={key: [[16, 16]]}), base)
    for key in ("original_size_as_tuple", "crop_coords_top_left", "target_size_as_tuple"):
        assert differs(draw(pipe, "a cat", cond={key: [[7, 3]]}), base)
    refiner = models("sd_xl_refiner")
    assert torch.equal(
        draw(refiner, "a cat", scale=1.0, cond={"aesthetic_score": [6]}), draw(refiner, "a cat", scale=1.0)
    )
    assert differs(draw(refiner, "a cat", cond={"aesthetic_score": [1]}), draw(refiner, "a cat"))


def test_a_picture_depends_on_its_own_seed_and_prompt_alone(models):
    pipe = models("sd_xl_base")
    together = draw(pipe, "a cat", "a dog", "an owl", seeds=[3, 4, 5])
    torch.testing.assert_close(together[1:2], draw(pipe, "a dog", seeds=[4]), atol=1e-4, rtol=0)
    torch.testing.assert_close(
        together, draw(pipe, "a cat", "a dog", "an owl", seeds=3, batch_size=1), atol=1e-4, rtol=0
    )


def test_what_was_drawn_in_a_batch_is_told_by_its_own_recipe(models):
    pictures = models("sd_2_1")(("a cat", "a dog", "an owl"), seeds=[3, 4, 5], steps=2, batch_size=2)
    assert [(p.recipe.prompts, p.recipe.seeds, p.index) for p in pictures] == [
        (("a cat", "a dog"), (3, 4), 0),
        (("a cat", "a dog"), (3, 4), 1),
        (("an owl",), (5,), 0),
    ]
    assert [picture.seed for picture in pictures] == [3, 4, 5]


def test_no_more_is_drawn_at_once_than_fits(models):
    pipe = models("sd_2_1")
    recipe = replace(pipe.recipe, prompts=("a cat",), seeds=tuple(range(70)))

    def sizes(size, n=None):
        return [part.n for part in pipe.plan(replace(recipe, size=size)).batches(n)]

    assert sizes((16, 16)) == [64, 6]
    assert sizes((16, 16), 40) == [40, 30]
    assert set(sizes((1024, 1024))) == {4, 2}
    assert set(sizes((4096, 4096))) == {1}


def test_parts_of_the_sampler_may_be_given_by_name_or_as_in_a_config(models):
    pipe = models("sd_2_1")
    named = draw(pipe, "a cat", sampler="euler_edm", discretization="edm", guider={"use": "cfg", "scale": 2.0})
    whole = {"use": "euler_edm", "discretization": "edm", "guider": {"use": "cfg", "scale": 2.0}, "num_steps": 3}
    assert torch.equal(named, draw(pipe, "a cat", sampler=whole, steps=None))
    assert torch.equal(named, draw(pipe, "a cat", sampler="euler_edm", discretization="edm", scale=2.0))
    assert torch.equal(draw(pipe, "a cat", guider="identity"), draw(pipe, "a cat", scale=1.0))
    assert torch.equal(draw(pipe, "a cat", guider="identity", scale=2.0), draw(pipe, "a cat", scale=2.0))
    interval = {"use": "interval", "guider": "cfg"}
    assert torch.equal(draw(pipe, "a cat", guider=interval, scale=2.0), draw(pipe, "a cat", scale=2.0))
    assert torch.equal(
        draw(pipe, "a cat", guider=interval | {"sigma_lo": 1e6}, scale=2.0), draw(pipe, "a cat", scale=1.0)
    )


# --- image to image ------------------------------------------------------------------------------------------------


def test_strength_0_gives_the_reconstruction_and_more_goes_further(models, photo):
    pipe = models("sd_xl_base")
    with torch.no_grad():
        reconstruction = pipe.model.decode(pipe.model.encode(photo), None, None)
    assert torch.equal(draw(pipe, "a cat", init_image=photo, strength=0.0), reconstruction)
    options = {"init_image": photo, "steps": 20, "sampler": EULER, "scale": 1.0}
    near, far = (draw(pipe, "a cat", strength=strength, **options) for strength in (0.15, 0.9))
    assert 0 < (near - reconstruction).norm() < (far - reconstruction).norm()
    assert torch.equal(draw(pipe, "a cat", **options), draw(pipe, "a cat", strength=0.75, **options))


def test_strength_1_is_text_to_image_but_for_the_image_that_is_left_in_the_noise(models, photo, monkeypatch):
    """x = z0 + sigma * noise, and of text to image sqrt(1 + sigma^2) * noise: equal for z0 of just the difference."""
    pipe = models("sd_2_1")
    noise = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(0))
    sigma = pipe.plan(replace(pipe.recipe, prompts=("a cat",), steps=3)).schedules[0][0]
    monkeypatch.setattr(pipe.model, "encode", lambda image: ((1 + sigma**2).sqrt() - sigma) * noise[None])
    drawn = draw(pipe, "a cat", init_image=photo, strength=1.0)
    torch.testing.assert_close(drawn, draw(pipe, "a cat"), atol=1e-3, rtol=0)


@pytest.fixture(scope="module")
def flow_model(tmp_path_factory):
    """The tiny Stable Diffusion 2.1 as a flow model, whose shift depends on the size."""
    shifted = "{use: shifted, base_shift: 0.0, max_shift: 2.0, base_tokens: 4, max_tokens: 16, discretization: flow}"
    changes = ("denoiser={use: continuous, scaling: flow}", f"sampler={{use: euler_edm, discretization: {shifted}}}")
    folder = tmp_path_factory.mktemp("flow")
    return Pipeline.load(write_checkpoint("sd_2_1", folder, *(f"model.{change}" for change in changes)))


def test_a_flow_model_draws_from_pure_noise_with_the_shift_of_its_size(flow_model, photo):
    plan = flow_model.plan(replace(flow_model.recipe, prompts=("a cat",), steps=4))
    torch.testing.assert_close(
        plan.schedules[0], torch.tensor([torch.inf, *(torch.e**2 * n for n in (3, 1, 1 / 3)), 0])
    )
    small = flow_model.plan(replace(flow_model.recipe, prompts=("a cat",), steps=4, size=(8, 8)))
    torch.testing.assert_close(small.schedules[0], torch.tensor([torch.inf, 3, 1, 1 / 3, 0]))
    drawn = draw(flow_model, "a cat")
    assert drawn.isfinite().all()
    # of pure noise nothing of an image is left
    assert torch.equal(draw(flow_model, "a cat", init_image=photo, strength=1.0), drawn)
    assert differs(draw(flow_model, "a cat", init_image=photo, strength=0.5), drawn)


def test_levels_from_pure_noise_are_refused_for_a_model_without_a_limit(models):
    with pytest.raises(SgmError, match="this model has no limit for"):
        models("sd_2_1")("a cat", discretization="flow", steps=3)


def test_an_image_may_be_a_file_a_pillow_image_or_a_tensor(models, photo, tmp_path):
    file = tmp_path / "photo.png"
    to_pil(photo).save(file)
    pipe = models("sd_2_1")
    drawn = [draw(pipe, "a cat", init_image=image) for image in (photo, to_pil(photo), file, str(file))]
    assert all(torch.equal(image, drawn[0]) for image in drawn)
    assert draw(pipe, "a cat", init_image=file, size=(8, 24)).shape[-2:] == (24, 8)


# --- inpainting ----------------------------------------------------------------------------------------------------


def left_half(white: bool = True) -> Image.Image:
    mask = Image.new("L", (16, 16), 0)
    mask.paste(255, (0, 0, 7, 16)) if white else None
    return mask


@pytest.mark.parametrize("sampler", ["euler_edm", "heun_edm", "dpmpp_2m", "euler_ancestral", "linear_multistep"])
def test_only_what_is_masked_is_redrawn(models, photo, sampler):
    pipe = models("sd_xl_base")
    options = {"init_image": photo, "sampler": sampler, "strength": 0.9}
    (inpainted,) = draw(pipe, "a cat", mask=left_half(), **options)
    assert torch.equal(inpainted[..., 7:], photo[..., 7:])
    assert differs(inpainted[..., :7], photo[..., :7])
    nearly_all = Image.new("L", (16, 16), 255)
    nearly_all.putpixel((0, 0), 0)  # in a cell with others that are redrawn
    full, whole = draw(pipe, "a cat", mask=nearly_all, **options), draw(pipe, "a cat", **options)
    assert torch.equal(full.flatten(2)[..., 1:], whole.flatten(2)[..., 1:])


@pytest.mark.parametrize(
    ("level", "message"), [(0, "black everywhere.*make white"), (255, "white everywhere.*leave it")]
)
def test_a_mask_that_selects_nothing_or_everything_is_refused(models, photo, level, message):
    pipe = models("sd_2_1")
    with pytest.raises(SgmError, match=message):
        pipe("a cat", init_image=photo, mask=Image.new("L", (16, 16), level))
    mask = Image.new("L", (16, 16), 255 - level)
    mask.paste(level, (4, 0, 12, 16))  # all that is left of it in a picture of another shape
    with pytest.raises(SgmError, match=f"brought to 8x16, is {message}"):
        pipe("a cat", init_image=to_pil(photo), mask=mask, size=(8, 16))


@pytest.mark.parametrize(
    ("steps", "strength"), [(1, None), (1, 0.99), (2, 0.6), (4, 0.39), (10, 0.18), (20, 0.09), (50, 0.03)]
)
def test_any_strength_above_0_takes_at_least_one_step(models, photo, steps, strength):
    pipe, taken = models("sd_2_1"), []
    (drawn,) = pipe(
        "a cat", init_image=photo, steps=steps, strength=strength, progress=lambda *told: taken.append(told)
    )
    assert taken[-1][0] == taken[-1][1] >= 1
    assert not torch.equal(drawn.image, draw(pipe, "a cat", init_image=photo, strength=0.0)[0])


@pytest.mark.parametrize(("steps", "start"), [(2, 0.8), (4, 0.8), (8, 0.8), (10, 0.99), (10, 0.01)])
def test_both_a_model_and_its_refiner_take_a_step(models, steps, start):
    pipe = models("sd_xl_base")
    pipe._refiners[refiner := "itself"] = pipe
    drawing = pipe.plan(replace(pipe.recipe, prompts=("a cat",), steps=steps, refiner=refiner, refiner_start=start))
    assert [len(schedule) > 1 for schedule in drawing.schedules] == [True, True]
    assert sum(len(schedule) - 1 for schedule in drawing.schedules) == steps


def test_one_step_cannot_be_shared_with_a_refiner(models):
    pipe = models("sd_xl_base")
    with pytest.raises(SgmError, match=r"the schedule has 1; more steps work.*--steps"):
        pipe("a cat", steps=1, refiner=pipe)


def test_guidance_that_acts_at_no_level_is_told(models):
    pipe = models("sd_2_1")
    guider = {"use": "interval", "sigma_lo": 1e3, "sigma_hi": 2e3, "guider": {"use": "cfg", "scale": 8.0}}
    with pytest.warns(UserWarning, match="guidance acts at none of the 3 levels"):
        draw(pipe, "a cat", guider=guider)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw(pipe, "a cat", guider=guider | {"sigma_lo": 1.0})


def test_all_is_redrawn_of_what_is_masked_unless_a_strength_is_given(models, photo):
    pipe = models("sd_2_1")
    whole = draw(pipe, "a cat", init_image=photo, mask=left_half())
    assert torch.equal(whole, draw(pipe, "a cat", init_image=photo, mask=left_half(), strength=1.0))
    assert differs(whole, draw(pipe, "a cat", init_image=photo, mask=left_half(), strength=0.5))


# --- base and refiner ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", [EULER, ANCESTRAL, {"use": "heun_edm"}])
@pytest.mark.parametrize("start", [0.0, 0.35, 0.8, 1.0])
def test_a_schedule_split_between_a_model_and_itself_is_the_whole_schedule(models, sampler, start):
    pipe = models("sd_xl_base")
    options = {"sampler": sampler, "steps": 10}
    split = draw(pipe, "a cat", refiner=pipe, refiner_start=start, **options)
    assert torch.equal(split, draw(pipe, "a cat", **options))


def test_a_part_of_the_schedule_can_be_split_too(models, photo):
    pipe = models("sd_xl_base")
    options = {"sampler": EULER, "steps": 10, "init_image": photo, "strength": 0.6, "mask": left_half()}
    split = draw(pipe, "a cat", refiner=pipe, refiner_start=0.5, **options)
    assert torch.equal(split, draw(pipe, "a cat", **options))


def test_a_refiner_draws_the_end_with_what_it_is_told_itself(models):
    base, refiner = models("sd_xl_base"), models("sd_xl_refiner")
    options = {"steps": 10, "sampler": EULER}
    alone = draw(base, "a cat", **options)
    drawn = {start: draw(base, "a cat", refiner=refiner, refiner_start=start, **options) for start in (0.5, 0.8, 1.0)}
    assert torch.equal(drawn[1.0], alone)
    assert differs(drawn[0.8], alone)
    assert differs(drawn[0.5], drawn[0.8])
    by_path = draw(
        Pipeline.load(models.checkpoint("sd_xl_base")), "a cat", refiner=models.checkpoint("sd_xl_refiner"), **options
    )
    assert torch.equal(by_path, drawn[0.8])


def test_a_condition_is_for_whichever_of_the_two_reads_it(models):
    base, refiner = models("sd_xl_base"), models("sd_xl_refiner")
    options = {"steps": 10, "sampler": EULER, "refiner": refiner, "refiner_start": 0.1}
    scored = draw(base, "a cat", cond={"aesthetic_score": [1.0]}, **options)
    assert differs(scored, draw(base, "a cat", **options))
    with pytest.raises(SgmError, match=r"aesthetic_scor:.*Did you mean 'aesthetic_score'"):
        draw(base, "a cat", cond={"aesthetic_scor": [1.0]}, **options)


# --- image to video ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VIDEOS)
def test_a_clip_is_made_of_an_image(models, photo, name):
    pipe = models(name)
    clips = draw(pipe, init_image=photo, seeds=[3, 4])
    assert clips.shape == (2, FRAMES, 3, 16, 16)
    assert torch.equal(draw(pipe, init_image=photo, seeds=[3, 4]), clips)
    torch.testing.assert_close(draw(pipe, init_image=photo, seeds=[4])[0], clips[1], atol=1e-4, rtol=0)
    assert differs(clips[:1], clips[1:])
    assert differs(clips, draw(pipe, init_image=-photo, seeds=[3, 4]))
    assert draw(pipe, init_image=photo, frames=5).shape[1] == 5


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("svd", {"fps": 30}),
        ("svd", {"motion_bucket": 5}),
        ("svd", {"cond_aug": 0.5}),
        ("svd", {"scale": 9.0}),
        ("svd_image_decoder", {"sampler": "heun_edm"}),
        ("sv3d_u", {"cond_aug": 0.5}),
        ("sv3d_p", {"elevations": [40.0]}),
        ("sv3d_p", {"elevations": [10.0, 10.0, 30.0]}),
        ("sv3d_p", {"azimuths": [90.0, 180.0, 0.0]}),
    ],
    ids=str,
)
def test_what_a_clip_model_is_told_counts(models, photo, name, change):
    base = draw(models(name), init_image=photo)
    assert differs(draw(models(name), init_image=photo, **change), base)


def test_the_numbers_that_clip_models_are_told_by_default(models, photo):
    svd = {"fps": 7, "motion_bucket": 127, "cond_aug": 0.02}
    assert torch.equal(draw(models("svd"), init_image=photo), draw(models("svd"), init_image=photo, **svd))
    sv3d = {"cond_aug": 1e-5, "elevations": [10.0] * 3, "azimuths": [120.0, 240.0, 360.0]}
    assert torch.equal(draw(models("sv3d_p"), init_image=photo), draw(models("sv3d_p"), init_image=photo, **sv3d))
    same = {"azimuths": [20.0, 140.0, 260.0]}  # as seen from the last one, where the image was taken
    torch.testing.assert_close(
        draw(models("sv3d_p"), init_image=photo), draw(models("sv3d_p"), init_image=photo, **same), atol=1e-3, rtol=0
    )


# --- precision, memory ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sd_xl_base", "svd"])
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_half_precision_is_that_of_all_but_the_first_stages(models, photo, name, dtype):
    pipe = Pipeline.load(models.checkpoint(name), dtype=dtype)
    wanted = {"bf16": torch.bfloat16, "fp16": torch.float16}[dtype]
    exact = {
        id(p) for stage in pipe.model.engine.modules() if isinstance(stage, FirstStage) for p in stage.parameters()
    }
    for parameter in pipe.model.engine.parameters():
        assert parameter.dtype == (torch.float32 if id(parameter) in exact else wanted)
    given = {"init_image": photo} if name == "svd" else {}
    prompts = () if name == "svd" else ("a cat",)
    half, full = (draw(model, *prompts, scale=1.5, **given) for model in (pipe, models(name)))
    assert not torch.equal(half, full)
    torch.testing.assert_close(half, full, atol=0.3, rtol=0)


def test_tiles_are_for_the_decoder(models):
    pipe = models("sd_xl_base")
    tiled, whole = draw(pipe, "a cat", tile=4), draw(pipe, "a cat")
    assert not torch.equal(tiled, whole)
    assert torch.equal(draw(pipe, "a cat", tile=8), whole)  # one tile
    assert pipe.model.engine.first_stage_model.tiling is None
    torch.testing.assert_close(tiled, whole, atol=1.0, rtol=0)


@pytest.mark.parametrize("name", ["sd_xl_base", "svd"])
def test_offloaded_parts_are_on_the_device_one_at_a_time_and_only_at_work(models, photo, name):
    kept = models(name)
    pipe = Pipeline.load(models.checkpoint(name))
    engine = pipe.model.engine
    pipe.model.parts = parts = Parts(engine, torch.device("cpu"), offload=True)  # as for a device
    met: list[tuple[str, set[str]]] = []

    def note(part: str):
        return lambda *_: met.append((part, set(parts.resident)))

    engine.conditioner.register_forward_pre_hook(note("conditioner"))
    engine.model.register_forward_pre_hook(note("network"))
    engine.first_stage_model.decoder.register_forward_pre_hook(note("first_stage"))
    given = {"init_image": photo} if name == "svd" else {}
    prompts = () if name == "svd" else ("a cat",)
    before = {key: value.data_ptr() for key, value in engine.state_dict().items()}
    assert torch.equal(draw(pipe, *prompts, **given), draw(kept, *prompts, **given))
    assert {part for part, _ in met} == {"conditioner", "network", "first_stage"}
    assert all(resident == {part} for part, resident in met)
    assert not parts.resident
    assert {key: value.data_ptr() for key, value in engine.state_dict().items()} == before


# --- numbers at the edge -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", ["sd_xl_base", "svd"])
def test_a_picture_does_not_depend_on_the_default_dtype(models, photo, name, dtype):
    """As Lightning's bf16-true sets it, and scripts of others do."""
    prompts, given = ("a cat",), {"cond": {"original_size_as_tuple": [[1025, 17.3]]}}
    if name == "svd":
        prompts, given = (), {"init_image": photo, "cond_aug": 0.1}
    expected = draw(Pipeline.load(models.checkpoint(name)), *prompts, **given)
    pipe = Pipeline.load(models.checkpoint(name))
    torch.set_default_dtype(dtype)
    try:
        drawn = draw(pipe, *prompts, **given)
    finally:
        torch.set_default_dtype(torch.float32)
    assert drawn.dtype == torch.float32
    assert torch.equal(drawn, expected)


def test_any_seed_that_is_accepted_draws(models, photo):
    edges = [0, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53 + 1, 2**63 - 1]
    for name, prompts, given in (("sd_2_1", ("a cat",), {}), ("svd", (), {"init_image": photo})):
        pictures = models(name)(prompts, seeds=edges, steps=1, sampler="euler_ancestral", **given)
        assert [picture.seed for picture in pictures] == edges
        # torch's generator on the CPU takes 32 bits of a seed; rows of a batch may round differently, so those that
        # agree in these bits may differ in a last digit
        assert len({picture.image.numpy().tobytes() for picture in pictures}) >= len({seed % 2**32 for seed in edges})
    pipe = models("sd_2_1")
    for seeds in ([2**63], [-1], 2**63):
        with pytest.raises(SgmError, match=r"seeds are 0 to 2\^63 - 1"):
            pipe("a cat", seeds=seeds)


# --- what makes no sense -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("sd_2_1", {"mask": left_half()}, "give init"),
        ("sd_2_1", {"strength": 0.5}, "give init"),
        ("sd_2_1", {"frames": 4}, "frames is for models that make a video"),
        ("sd_2_1", {"fps": 4}, "fps is for"),
        ("sd_2_1", {"motion_bucket": 4}, "motion_bucket_id"),
        ("sd_2_1", {"cond_aug": 0.1}, "cond_aug is for"),
        ("sd_2_1", {"elevations": [1.0]}, "polars_rad"),
        ("sd_2_1", {"azimuths": [1.0]}, "azimuths_rad"),
        ("sd_2_1", {"refiner_start": 0.5}, "give refiner"),
        ("sd_2_1", {"size": (17, 16)}, "multiples of 2"),
        ("sd_2_1", {"steps": 0}, "at least 1"),
        ("sd_2_1", {"steps": 1001}, "1000"),
        ("sd_2_1", {"negative": "x", "scale": 1.0}, "no"),
        ("sd_2_1", {"negative": "x", "guider": "identity"}, "give scale"),
        ("sd_2_1", {"sampler": "eulr_edm"}, "Did you mean 'euler_edm'"),
        ("sd_2_1", {"guider": {"use": "cfg", "scal": 2}}, "scale"),
        ("sd_2_1", {"cond": {"text": ["x"]}}, "txt"),
        ("sd_2_1", {"seeds": [1, 2], "n": 3}, "2 seeds for 3"),
        ("sd_2_1", {"strength": 1.5, "init_image": "x.png"}, "0 to 1"),
        ("sd_2_1", {"init_image": "nothing.png"}, "no such image"),
        ("sd_2_1", {"init_image": torch.zeros(1, 16, 16)}, "(3, 16, 16)"),
        ("sd_2_1", {"init_image": torch.zeros(3, 15, 16)}, "16x16"),
        ("sd_2_1", {"init_image": torch.zeros(3, 16, 16), "mask": Image.new("L", (8, 8))}, "pixel by pixel"),
        ("sd_2_1", {"batch_size": 0}, "at least 1"),
        ("svd", {"prompts": ("a cat",)}, "models that read a prompt"),
        ("svd", {}, "Give init"),
        ("svd", {"init_image": torch.zeros(3, 16, 16), "strength": 0.5}, "draw images"),
        ("svd", {"init_image": torch.zeros(3, 16, 16), "refiner": "x"}, "draw images"),
        ("svd", {"init_image": torch.zeros(3, 16, 16), "elevations": [1.0]}, "polars_rad"),
        ("sv3d_p", {"init_image": torch.zeros(3, 16, 16), "elevations": [1.0, 2.0]}, "2 elevations for 3 frames"),
        ("sv3d_p", {"init_image": torch.zeros(3, 16, 16), "azimuths": [1.0]}, "1 azimuths for 3 frames"),
        ("sv3d_u", {"init_image": torch.zeros(3, 16, 16), "motion_bucket": 3}, "motion_bucket_id"),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_before_anything_is_drawn(models, name, options, message):
    pipe = models(name)
    if name == "sd_2_1":
        options = {"prompts": "a cat"} | options
    with pytest.raises(ValueError, match=re.escape(message)):
        pipe(**options)


def test_a_prompt_is_asked_for(models):
    with pytest.raises(SgmError, match="--prompt TEXT"):
        models("sd_xl_base")()


def test_there_is_nothing_to_offload_on_the_cpu(models):
    with pytest.raises(SgmError, match="--offload"):
        Pipeline.load(models.checkpoint("sd_2_1"), offload=True)


def test_what_is_not_finite_is_no_picture(models):
    pipe = Pipeline.load(models.checkpoint("sd_2_1"))
    next(pipe.model.engine.model.parameters()).data.fill_(float("nan"))
    with pytest.raises(SgmError, match="not finite"):
        pipe("a cat", steps=2)


def test_progress_counts_the_steps_of_base_and_refiner_together(models):
    steps = []
    models("sd_xl_base")(
        "a cat", steps=5, refiner=models("sd_xl_refiner"), refiner_start=0.6, progress=lambda *told: steps.append(told)
    )
    assert steps == [(i + 1, 5) for i in range(5)]
