import pytest
import torch
from safetensors.torch import load_file, save_file

from sgm_core.testing import check_component

transformers = pytest.importorskip("transformers")

from support.tiny_transformers import write_clip  # noqa: E402
from transformers import AutoTokenizer, CLIPTextModelWithProjection  # noqa: E402

from sgm_plugins.embedders.open_clip_text import OpenClipTextEmbedder  # noqa: E402
from sgm_plugins.openclip.weights import from_transformers  # noqa: E402

TEXTS = ["a cat", "", "a very long text that does not fit"]


def reference(clip):
    """transformers' own forward, for ids that are padded with zeros, as OpenCLIP pads."""
    ids = AutoTokenizer.from_pretrained(clip)(
        TEXTS, padding="max_length", max_length=16, truncation=True, return_tensors="pt"
    )["input_ids"]
    end = int(ids[0, 15])
    first = (ids == end).int().argmax(dim=1)
    ids[torch.arange(16)[None] > first[:, None]] = 0
    model = CLIPTextModelWithProjection.from_pretrained(clip)
    with torch.no_grad():
        return model, model(input_ids=ids, output_hidden_states=True)


def embed(clip, texts=TEXTS, **options):
    with torch.no_grad():
        return OpenClipTextEmbedder(clip, 16, **options)(texts)


@pytest.fixture(scope="module", params=["gelu", "quick_gelu"])
def either(request, tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp(request.param), activation=request.param)


def test_it_keeps_the_contract_of_embedders(clip):
    inputs = {"caption": ["a cat", "b"]}
    check_component("embedders", "open_clip_text", model=str(clip), max_length=16, return_pooled=True, inputs=inputs)


def test_layers_and_the_pooled_text_are_those_of_transformers(either):
    model, out = reference(either)
    last, penultimate = out.hidden_states[-1], out.hidden_states[-2]
    norm = model.text_model.final_layer_norm
    for layer, raw in (("last", last), ("penultimate", penultimate)):
        z, pooled = embed(either, layer=layer, legacy=False, return_pooled=True)
        torch.testing.assert_close(z, raw, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(pooled, out.text_embeds, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(embed(either, layer=layer), norm(raw).detach(), rtol=1e-5, atol=1e-5)


def test_the_last_block_is_not_run_where_nothing_needs_it(clip):
    embedder = OpenClipTextEmbedder(clip, 16, layer="penultimate")
    embedder.model.transformer.resblocks[-1].register_forward_hook(lambda *_: pytest.fail("it was run"))
    embedder(["a"])


def test_the_layout_of_openclip_is_read_too(clip, tmp_path):
    for name in ("config.json", "vocab.json", "merges.txt", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((clip / name).read_bytes())
    weights = load_file(clip / "model.safetensors")
    tower = from_transformers(weights, "text_model")
    visual = {f"visual.{key}": tensor for key, tensor in from_transformers(weights, "vision_model").items()}
    save_file(tower | visual, tmp_path / "open_clip_model.safetensors")
    assert torch.equal(embed(tmp_path), embed(clip))


def test_chunks_and_weights(clip):
    z = embed(clip, ["a (b:2) c"], weighting=True, chunks=2)
    plain, empty = embed(clip, ["a b c"]), embed(clip, [""])
    assert z.shape == (1, 32, 32)
    torch.testing.assert_close(z[:, 2], empty[:, 2] + 2 * (plain[:, 2] - empty[:, 2]))
    torch.testing.assert_close(z[:, 16:], empty)


def test_another_models_weights_are_refused(clip, tmp_path):
    for name in ("config.json", "vocab.json", "merges.txt", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((clip / name).read_bytes())
    weights = load_file(clip / "model.safetensors")
    save_file(weights | {"text_projection.weight": torch.ones(3, 32)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"does not hold the text tower .*: text_projection is \(32, 3\)"):
        OpenClipTextEmbedder(tmp_path, 16)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=rf"^{tmp_path} has no model.safetensors or open_clip_model.safetensors$"):
        OpenClipTextEmbedder(tmp_path, 16)
    OpenClipTextEmbedder(tmp_path, 16, load_weights=False)
