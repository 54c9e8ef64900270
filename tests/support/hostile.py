"""Files as an attacker makes them, of each kind that a command reads; and the commands that read them.

Whatever would be run leaves a file in the folder `marks`. Whatever would be read without being named lies in `outside`.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file
from support.broken_files import Runs
from support.watching import Job

TERMINAL = "\x1b]0;title\x07\x1b[2J\x9b31m\r\u202eb\x08\x7f"
"""Renames a window, clears a screen, turns the direction of writing."""

MARK = "import pathlib; pathlib.Path({mark!r}).touch()\n"


class Corpus:
    """Hostile files below a folder, made when their commands are asked for.

    Args:
        folder: for the files, one folder each.
        run: a good run of digits.
        outside: a folder that no file may lead to.
        marks: where whatever is run leaves a file.
        out: where the commands write.
    """

    def __init__(self, folder: Path, run: Path, outside: Path, marks: Path, out: Path) -> None:
        self.folder, self.run, self.outside, self.marks, self.out = folder, run, outside, marks, out
        for made in (folder, outside, marks, out):
            made.mkdir(parents=True, exist_ok=True)
        self.program = MARK.format(mark=str(marks / "program"))
        shutil.copytree(run, outside / "run")
        (outside / "secret.txt").write_text("secret caption")
        (outside / "secret.json").write_text('{"text": "secret"}')
        (outside / "evil.py").write_text(self.program)
        Image.new("RGB", (16, 16), "red").save(outside / "secret.png")
        self._program_beside(folder)

    def place(self, kind: str, name: str) -> Path:
        """A new folder, for one of a kind."""
        folder = self.folder / kind / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def configs(self) -> Iterator[Job]:
        levels = "\n".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}, *a{n - 1}]" for n in range(1, 40))
        mark = self.marks / "yaml"
        texts: dict[str, str | bytes] = {
            "call": f"model: !!python/object/apply:os.system ['touch {mark}']",
            "module": "data: !!python/module:evil",
            "aliases": f"a0: &a0 x\n{levels}",
            "circle": "model: &a {network: *a}",
            "merges": "a: &a {x: 1}\nmodel: {<<: [*a, *a, *a], <<: *a}",
            "deep": "model: " + "[" * 100_000,
            "deep_block": "\n".join(" " * n + "a:" for n in range(2000)),
            "terminal": json.dumps({TERMINAL: 1, "model": {"use": TERMINAL}, "seed": TERMINAL}),
            "bytes": b"\xff\xfe\x00\xd8model: \x80",
            "nul": b"seed: 1\n\0",
            "environment": "extends: digits\nvars: {a: '${oc.env:HOME}', b: '${env:PATH}', c: '${oc.create:{}}'}",
            "references": "vars:\n" + "".join(f"  a{n}: '${{vars.a{n + 1}}}${{vars.a{n + 1}}}'\n" for n in range(40)),
            "itself": "vars: {a: '${vars.a}'}",
            "imports": "extends: digits\nmodel: {network: {use: evil.Network}, sampler: {use: 'os:system'}}",
            "path": f"extends: digits\nmodel: {{network: {{use: '{self.folder}/evil.py'}}}}",
            "digits": "extends: digits\nseed: " + "9" * 10_000,
            "numbers": "extends: digits\nseed: -1\ntrainer: {max_steps: 1.0e+308, devices: .nan}\ncheckpoint: .inf",
            "types": "model: 5\ndata: []\ntrainer: null\nseed: {}\ncheckpoint: x",
            "old": f"model: {{target: os.system, params: {{command: 'touch {mark}'}}}}",
            "old_terminal": json.dumps({"model": {"target": TERMINAL, "params": {TERMINAL: [TERMINAL]}}}),
            "many_extends": "extends: [" + ", ".join(["c.yaml"] * 100) + "]",
            "shards": "data: {use: webdataset, size: 8, shards: '{0..99999999999}.tar'}",
            "shards_deep": "data: {use: webdataset, size: 8, shards: '" + "{" * 5000 + "a,b" + "}" * 5000 + "'}",
            "shards_digits": "data: {use: webdataset, size: 8, shards: '{0.." + "9" * 5000 + "}.tar'}",
            "shards_many": "data: {use: webdataset, size: 8, shards: '" + "{a,b}" * 60 + "'}",
            "shards_command": f"data: {{use: webdataset, size: 8, shards: 'pipe:touch {mark}'}}",
            "url": "data: {use: hf_dataset, path: 'https://example.invalid/x', size: 8}",
        }
        for name, text in texts.items():
            folder = self.place("config", name)
            file = folder / "c.yaml"
            file.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
            (folder / "model.py").write_text(self.program)
            yield from self._config(name, file)
        for name in ("pipe", "endless", "large"):
            file = self.place("config", name) / "c.yaml"
            self._special(name, file)
            yield from self._config(name, file)
        chain = self.place("config", "chain")
        for n in range(1200):
            (chain / f"{n}.yaml").write_text(f"extends: {n + 1}.yaml\n")
        yield from self._config("chain", chain / "0.yaml")
        twice = self.place("config", "twice")
        for n in range(30):
            (twice / f"{n}.yaml").write_text(f"extends: [{n + 1}.yaml, {n + 1}.yaml]\n" if n < 29 else "vars: {a: 1}")
        yield from self._config("twice", twice / "0.yaml")

    def _config(self, name: str, file: Path) -> Iterator[Job]:
        for command in (
            ["check", file],
            ["explain", file],
            ["convert", "config", file],
            ["data", "check", file],
            ["check", "--shapes", file],
            ["cache", file],
            ["train", file, "trainer.max_steps=1", "--name", f"c-{name}", "--runs", self.out / "runs"],
            ["sample", self.run, "--config", file, "--steps", "1", "--out", self.out / "config"],
        ):
            yield Job(f"config/{name}", [str(word) for word in command])

    def headers(self) -> Iterator[Job]:
        """Of safetensors files."""
        good = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
        sgm = {"config": {"model": {"use": TERMINAL}}, "components": [{"kind": "x", "name": TERMINAL}]}
        component = {"kind": "samplers", "name": "x", "version": "1"}
        injected = {**component, "distribution": "--index-url=http://example.invalid x; touch y #"}
        headers: dict[str, Any] = {
            "terminal": {"__metadata__": {TERMINAL: TERMINAL}, TERMINAL: good},
            "repeats": {"a": {**good, "shape": ["x", 2_000_000_000]}},
            "deep": b"[" * 200_000,
            "deep_object": b'{"a":' * 100_000,
            "dtype": {"a": {**good, "dtype": ["F32"]}},
            "metadata": {"__metadata__": {"a": 1}, "a": good},
            "huge": {"a": {**good, "shape": [10**18] * 100}},
            "provenance": {"__metadata__": {"sgm": json.dumps(sgm)}, "a": good},
            "provenance_types": {"__metadata__": {"sgm": '{"config": "x", "components": [1]}'}, "a": good},
            "provenance_deep": {"__metadata__": {"sgm": "[" * 100_000}, "a": good},
            "injected": {"__metadata__": {"sgm": json.dumps({"config": {}, "components": [injected]})}, "a": good},
            "many": {f"{n}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(20_000)},
            "pointer": b"",
        }
        for name, header in headers.items():
            file = self.place("safetensors", name) / "m.safetensors"
            text = header if isinstance(header, bytes) else json.dumps(header).encode()
            file.write_bytes(struct.pack("<Q", len(text)) + text + b"\0" * 4)
            yield from self._weights(name, file)
        contents = {
            "page": b"<!doctype html><script>" + TERMINAL.encode(),
            "lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:" + TERMINAL.encode(),
            "long": struct.pack("<Q", 2**63) + b"{}",
            "pickle": pickle.dumps(Runs(os.system, f"touch {self.marks / 'pickle'}")),
        }
        for name, content in contents.items():
            file = self.place("safetensors", name) / "m.safetensors"
            file.write_bytes(content)
            yield from self._weights(name, file)
        for name in ("pipe", "endless", "large"):
            file = self.place("safetensors", name) / "m.safetensors"
            self._special(name, file)
            yield from self._weights(name, file)

    def checkpoints(self) -> Iterator[Job]:
        good = torch.load(self.run / "checkpoints" / "last.ckpt", weights_only=True)
        shared: list[Any] = [1]
        for _ in range(40):
            shared = [shared, shared]
        circle: list[Any] = []
        circle.append(circle)
        sgm = good["sgm"]
        changed: dict[str, dict[str, Any]] = {
            "shared": {"sgm": {**sgm, "config": {**sgm["config"], "vars": {"x": shared}}}},
            "circle": {"sgm": {**sgm, "config": {**sgm["config"], "vars": {"x": circle}}}},
            "components": {"sgm": {**sgm, "components": [{"a": 1}]}},
            "terminal": {"sgm": {**sgm, "components": [{"kind": TERMINAL, "name": TERMINAL}]}, TERMINAL: TERMINAL},
            "keys": {"state_dict": {1: torch.zeros(1), TERMINAL: torch.zeros(1)}},
            "texts": {"state_dict": {"model.x": "text", "y": [1]}},
            "step": {"global_step": TERMINAL, "epoch": 10**400},
            "views": {"state_dict": {"a": torch.zeros(1).expand(10**6, 10**6)}},
            "sparse": {
                "state_dict": {"a": torch.sparse_coo_tensor(torch.zeros(1, 1).long(), torch.ones(1), (10**12,))}
            },
            "use": {"sgm": {**sgm, "config": {**sgm["config"], "model": {"use": "os:system"}}}},
        }
        for name, change in changed.items():
            file = self.place("ckpt", name) / "m.ckpt"
            torch.save({**good, **change}, file)
            yield from self._weights(name, file)
        mark = str(self.marks / "checkpoint")
        program = Runs(exec, MARK.format(mark=mark))
        for name, payload in {
            "runs": {"state_dict": good["state_dict"], "x": program},
            "runs_first": program,
            "imports": {"state_dict": good["state_dict"], "x": Runs(__import__, "evil")},
        }.items():
            for zipped in (True, False):
                file = self.place("ckpt", f"{name}-{zipped}") / "m.ckpt"
                torch.save(payload, file, _use_new_zipfile_serialization=zipped)
                yield from self._weights(name, file)
        bomb = self.place("ckpt", "deflated") / "m.ckpt"
        with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
            size = 2**29
            archive.writestr("archive/data.pkl", b"\x80\x02X" + struct.pack("<I", size) + b"a" * size + b".")
            archive.writestr("archive/version", "3\n")
        yield from self._weights("deflated", bomb)
        contents = {
            "garbage": b"garbage" * 100,
            "empty": b"",
            "page": b"<html>" + TERMINAL.encode(),
            "lfs": b"version https://git-lfs.github.com/spec/v1\n",
            "marks": b"\x80\x02" + b"(" * 100_000,
            "nested": b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
            "program": self.program.encode(),
        }
        for name, content in contents.items():
            file = self.place("ckpt", name) / "m.ckpt"
            file.write_bytes(content)
            yield from self._weights(name, file)
        for name in ("pipe", "endless", "large"):
            file = self.place("ckpt", name) / "m.ckpt"
            self._special(name, file)
            yield from self._weights(name, file)

    def _weights(self, name: str, file: Path) -> Iterator[Job]:
        kind = file.suffix[1:] or "diffusers"
        for command in (
            ["inspect", file],
            ["inspect", file, "--json", "--keys"],
            ["sample", file, "--cond", "cls=1", "--steps", "1", "--out", self.out / "weights"],
            ["convert", "checkpoint", file, "--out", self.out / f"{kind}-{name}.safetensors"],
            [
                "train",
                "digits",
                f"model.init_from={file}",
                *SHORT,
                "--name",
                f"{kind}-{name}",
                "--runs",
                self.out / "runs",
            ],
        ):
            yield Job(f"{kind}/{name}", [str(word) for word in command])

    def diffusers(self) -> Iterator[Job]:
        """Folders of a pipeline."""
        index, weights = "diffusion_pytorch_model.safetensors.index.json", "diffusion_pytorch_model.safetensors"
        up = "../../../../outside/run/model.safetensors"
        pipeline = json.dumps({"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]})
        folders: dict[str, dict[str, str]] = {
            "leaves": {"model_index.json": pipeline, f"unet/{index}": json.dumps({"weight_map": {"a": up}})},
            "absolute": {
                "model_index.json": pipeline,
                f"unet/{index}": json.dumps({"weight_map": {"a": str(self.outside / "run" / "model.safetensors")}}),
            },
            "numbers": {"model_index.json": pipeline, f"unet/{index}": json.dumps({"weight_map": {"a": 5}})},
            "list": {"model_index.json": "[1]", f"unet/{index}": "[]"},
            "deep": {"model_index.json": "[" * 200_000, f"unet/{index}": "{" * 10},
            "terminal": {
                "model_index.json": json.dumps({TERMINAL: [TERMINAL, TERMINAL], "unet": [TERMINAL, TERMINAL]}),
                f"unet/{index}": json.dumps({"weight_map": {TERMINAL: TERMINAL}}),
            },
            "program": {
                "model_index.json": json.dumps({"_class_name": ["pipeline", "Evil"], "unet": ["evil", "Evil"]}),
                "pipeline.py": self.program,
                "unet/evil.py": self.program,
                "unet/config.json": json.dumps({"auto_map": {"AutoModel": "evil.Evil"}}),
            },
        }
        for name, files in folders.items():
            folder = self.place("diffusers", name)
            for path, text in files.items():
                (folder / path).parent.mkdir(exist_ok=True)
                (folder / path).write_text(text)
            yield from self._weights(name, folder)
        linked = self.place("diffusers", "linked")
        (linked / "unet").mkdir()
        (linked / "model_index.json").write_text(pipeline)
        (linked / "unet" / weights).symlink_to(self.outside / "run" / "model.safetensors")
        yield from self._weights("linked", linked)

    def loras(self) -> Iterator[Job]:
        layer = "lora_unet_time_embed_0"
        down, up = torch.zeros(2, 32), torch.zeros(128, 2)
        pair = {f"{layer}.lora_down.weight": down, f"{layer}.lora_up.weight": up}
        files: dict[str, tuple[dict[str, torch.Tensor], dict[str, str]]] = {
            "terminal": (
                {f"{TERMINAL}.lora_down.weight": down, f"{TERMINAL}.lora_up.weight": up},
                {TERMINAL: TERMINAL},
            ),
            "alpha": ({**pair, f"{layer}.alpha": torch.tensor(float("nan"))}, {}),
            "alpha_shape": ({**pair, f"{layer}.alpha": torch.zeros(5)}, {}),
            "metadata": (pair, {"lora_adapter_metadata": "null", "ss_network_dim": TERMINAL}),
            "metadata_deep": (pair, {"lora_adapter_metadata": "[" * 100_000}),
            "shapes": ({f"{layer}.lora_down.weight": torch.zeros(0), f"{layer}.lora_up.weight": up}, {}),
            "integers": ({key: value.long() for key, value in pair.items()}, {}),
            "half": ({f"{layer}.lora_down.weight": down}, {}),
        }
        for name, (tensors, metadata) in files.items():
            file = self.place("lora", name) / "l.safetensors"
            save_file(tensors, file, metadata)
            yield from self._lora(name, file)
        texts = {
            "peft": json.dumps({"r": "x", "lora_alpha": None, "target_modules": 5, "rank_pattern": {"(a+)+$": 1}}),
            "peft_pattern": json.dumps({"r": 2, "lora_alpha": 2, "alpha_pattern": {"(a*)*" * 20 + "b": 3}}),
            "peft_deep": "[" * 100_000,
            "peft_program": json.dumps(
                {"r": 2, "auto_mapping": {"base_model_class": "evil"}, "base_model_name_or_path": "x/y"}
            ),
        }
        for name, text in texts.items():
            folder = self.place("lora", name)
            (folder / "adapter_config.json").write_text(text)
            (folder / "evil.py").write_text(self.program)
            long = "a" * 40
            save_file(
                {f"base_model.model.{long}.lora_A.weight": down, f"base_model.model.{long}.lora_B.weight": up},
                folder / "adapter_model.safetensors",
            )
            yield from self._lora(name, folder)
        linked = self.place("lora", "linked")
        (linked / "adapter_config.json").symlink_to(self.outside / "secret.json")
        (linked / "adapter_model.safetensors").symlink_to(self.outside / "run" / "model.safetensors")
        yield from self._lora("linked", linked)

    def _lora(self, name: str, file: Path) -> Iterator[Job]:
        for command in (
            ["inspect", file],
            ["sample", self.run, "--lora", file, "--cond", "cls=1", "--steps", "1", "--out", self.out / "lora"],
            ["convert", "lora", file, "--model", self.run, "--to", "peft", "--out", self.out / f"lora-{name}"],
        ):
            yield Job(f"lora/{name}", [str(word) for word in command])

    def recipes(self) -> Iterator[Job]:
        """Pictures that say how they were drawn."""
        good = {"index": 0, "model": str(self.run), "seeds": [0], "cond": {"cls": [3]}, "steps": 1}
        secret = str(self.outside / "secret.png")
        recipes: dict[str, Any] = {
            "deep": "[" * 100_000,
            "infinite": '{"index": Infinity, "model": "x"}',
            "types": {**good, "model": {}},
            "seeds": {**good, "seeds": list(range(60_000))},
            "condition": {**good, "cond": {"cls": [{}]}},
            "facts": {**good, "facts": {"components": 5}},
            "steps": {**good, "steps": 10**9},
            "size": {**good, "size": [10**4, 10**4]},
            "reads": {**good, "init": secret, "strength": 0},
            "reads_mask": {**good, "init": secret, "mask": secret},
            "reads_up": {**good, "init": "../../../outside/secret.png", "strength": 0.5},
            "model": {**good, "model": str(self.outside / "run")},
            "lora": {**good, "loras": [str(self.outside / "run")]},
            "config": {**good, "config": str(self.outside / "secret.json")},
            "refiner": {**good, "refiner": str(self.outside / "run"), "refiner_start": 0.5},
            "terminal": {**good, "model": TERMINAL, "prompts": [TERMINAL], "facts": {TERMINAL: TERMINAL}},
            "use": {**good, "sampler": {"use": "os:system"}, "guider": {"use": TERMINAL}},
            "hub": {**good, "model": "hf:example/example"},
        }
        for name, recipe in recipes.items():
            file = self.place("recipe", name) / "p.png"
            file.write_bytes(_png(recipe if isinstance(recipe, str) else json.dumps(recipe)))
            yield from self._picture(name, file)
        for name, content in self._pictures().items():
            file = self.place("picture", name) / "p.png"
            file.write_bytes(content)
            yield from self._picture(name, file)
        for name in ("pipe", "endless", "large"):
            file = self.place("picture", name) / "p.png"
            self._special(name, file)
            yield from self._picture(name, file)

    def _picture(self, name: str, file: Path) -> Iterator[Job]:
        one = [*SHORT_SAMPLE, "--out", self.out / "pictures"]
        for command in (
            ["sample", "--like", file, "--device", "cpu", "--out", self.out / "pictures"],
            ["sample", self.run, "--like", file, *one],
            ["sample", self.run, "--init", file, *one],
            ["sample", self.run, "--init", self.out.parent / "gray.png", "--mask", file, *one],
        ):
            yield Job(f"picture/{name}", [str(word) for word in command])

    def _pictures(self) -> dict[str, bytes]:
        postscript = (
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"
            b"(" + str(self.marks / "postscript").encode() + b") (w) file closefile\n%%EOF\n"
        )
        good = io.BytesIO()
        Image.new("RGB", (16, 16)).save(good, "PNG")
        text = io.BytesIO()
        Image.new("RGB", (16, 16)).save(
            text, "JPEG", comment=TERMINAL.encode(), exif=b"Exif\0\0" + TERMINAL.encode() * 99
        )
        return {
            "postscript": postscript,
            "huge": _png("{}", side=60_000),
            "wide": _png("{}", side=2**31 - 1),
            "inflates": _png(None, extra=_chunk(b"zTXt", b"sgm\0\0" + zlib.compress(b"a" * 200_000_000))),
            "profile": _png(None, extra=_chunk(b"iCCP", b"x\0\0" + zlib.compress(b"a" * 100_000))),
            "cut": good.getvalue()[:60],
            "exif": text.getvalue(),
            "icon": b"icns" + struct.pack(">I", 2**31 - 1) + b"ic10" + struct.pack(">I", 8),
            "fits": b"SIMPLE  =                    T".ljust(80) + b"BITPIX  =                  -64".ljust(80),
        }

    def datasets(self) -> Iterator[Job]:
        for name, content in self._pictures().items():
            folder = self._images(name)
            (folder / "b.png").write_bytes(content)
            yield from self._data(name, folder)
        for name in ("pipe", "endless", "large"):
            for ending in ("png", "txt", "json"):
                folder = self._images(f"{name}-{ending}")
                self._special(name, folder / f"a.{ending}" if ending != "png" else folder / "b.png")
                yield from self._data(f"{name}-{ending}", folder)
        named = self._images("terminal")
        (named / f"{TERMINAL}.png").write_bytes(b"no picture")
        (named / f"{TERMINAL}.eps").write_bytes(b"no picture")
        (named / TERMINAL).mkdir()
        (named / "$(touch x).png").write_bytes(b"no picture")
        Image.new("RGB", (16, 16)).save(named / TERMINAL / "c.png")
        (named / "a.txt").write_text(TERMINAL)
        yield from self._data("terminal", named)
        linked = self._images("linked")
        (linked / "all").symlink_to("/")
        (linked / "up").symlink_to("..")
        (linked / "b.png").symlink_to(self.outside / "secret.png")
        (linked / "a.txt").symlink_to(self.outside / "secret.txt")
        (linked / "folder").symlink_to(self.outside)
        yield from self._data("linked", linked)
        tables = {
            "table_up": {"file_name": "../../../outside/secret.png", "text": "x"},
            "table_absolute": {"file_name": str(self.outside / "secret.png"), "text": "x"},
            "table_terminal": {"file_name": TERMINAL, "text": TERMINAL},
            "table_types": {"file_name": 5, "text": [TERMINAL]},
            "table_deep": "[" * 200_000,
            "table_digits": '{"file_name": "a.png", "text": ' + "9" * 5000 + "}",
            "table_surrogate": '{"file_name": "a.png", "text": "\\ud800"}',
        }
        for name, row in tables.items():
            folder = self._images(name)
            (folder / "metadata.jsonl").write_text(row if isinstance(row, str) else json.dumps(row))
            yield from self._data(name, folder)
        scripted = self.place("data", "scripted")
        (scripted / "scripted.py").write_text(self.program)
        (scripted / "dataset_infos.json").write_text("{}")
        yield Job("data/scripted", ["data", "check", "digits", f"data={{use: hf_dataset, path: {scripted}, size: 8}}"])
        (scripted / "README.md").write_text(
            "---\nconfigs: [{config_name: default, data_files: '../../../outside/*'}]\n---\n"
        )
        yield Job("data/card", ["data", "check", "digits", f"data={{use: hf_dataset, path: {scripted}, size: 8}}"])

    def _images(self, name: str) -> Path:
        folder = self.place("data", name)
        Image.new("RGB", (16, 16), "blue").save(folder / "a.png")
        return folder

    def _data(self, name: str, folder: Path) -> Iterator[Job]:
        data = f"data={{use: image_folder, root: {folder}, size: 8, channels: 1, captions: true, batch_size: 1}}"
        for command in (
            ["data", "check", folder, "data.size=8"],
            ["data", "check", "digits", data],
            ["data", "check", "digits", data, "--json", "--all"],
            ["train", "digits", *UNCONDITIONAL, data, "--name", f"d-{name}", "--runs", self.out / "runs"],
        ):
            yield Job(f"data/{name}", [str(word) for word in command])

    def shards(self) -> Iterator[Job]:
        """Of WebDataset."""
        picture = io.BytesIO()
        Image.new("RGB", (16, 16)).save(picture, "PNG")
        array = io.BytesIO()
        torch.save({"x": Runs(exec, self.program)}, array)
        header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1099511627776,), }".ljust(117) + b"\n"
        odd: dict[str, tuple[str, bytes]] = {
            "text": ("txt", TERMINAL.encode()),
            "json": ("json", b"[" * 100_000),
            "class": ("cls", b"9" * 10_000),
            "class_text": ("cls", TERMINAL.encode()),
            "pickle": ("npy", pickle.dumps(Runs(exec, self.program))),
            "objects": (
                "npy",
                b"\x93NUMPY\x01\0\x76\0"
                + b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(117)
                + b"\n",
            ),
            "array": ("npy", b"\x93NUMPY\x01\0\x76\0" + header),
            "archive": ("npy", array.getvalue()),
        }
        for name, (field, content) in odd.items():
            yield from self._shard(name, {"a.png": picture.getvalue(), f"a.{field}": content}, field)
        yield from self._shard(
            "names", {f"{TERMINAL}.png": b"x", "../../up.png": picture.getvalue(), "/etc/x.txt": b"x"}, "txt"
        )
        links = self.place("shards", "links") / "s.tar"
        with tarfile.open(links, "w") as tar:
            for kind, target in (
                (tarfile.SYMTYPE, "../../../outside/secret.png"),
                (tarfile.LNKTYPE, "/etc/passwd"),
                (tarfile.CHRTYPE, ""),
                (tarfile.FIFOTYPE, ""),
            ):
                member = tarfile.TarInfo("a.png")
                member.type, member.linkname = kind, target
                tar.addfile(member)
            large = tarfile.TarInfo("b.png")
            large.size = 2**40
            tar.addfile(large)
        yield Job("shards/links", ["data", "check", "digits", f"data={{use: webdataset, shards: {links}, size: 8}}"])
        for name in ("pipe", "endless", "large"):
            file = self.place("shards", name) / "s.tar"
            self._special(name, file)
            yield Job(
                f"shards/{name}", ["data", "check", "digits", f"data={{use: webdataset, shards: {file}, size: 8}}"]
            )

    def _shard(self, name: str, members: dict[str, bytes], field: str) -> Iterator[Job]:
        file = self.place("shards", name) / "s.tar"
        with tarfile.open(file, "w") as tar:
            for member, content in members.items():
                info = tarfile.TarInfo(member)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        data = f"data={{use: webdataset, shards: {file}, size: 8, channels: 1, batch_size: 1, columns: {{x: {field}}}}}"
        yield Job(f"shards/{name}", ["data", "check", "digits", data])
        yield Job(
            f"shards/{name}",
            ["train", "digits", *UNCONDITIONAL, data, "--name", f"s-{name}", "--runs", str(self.out / "runs")],
        )

    def encoders(self) -> Iterator[Job]:
        """Folders of transformers."""
        sizes = {
            "hidden_size": 8,
            "num_hidden_layers": 1,
            "num_attention_heads": 1,
            "intermediate_size": 8,
            "vocab_size": 10,
        }
        code = {"AutoConfig": "evil.C", "AutoModel": "evil.M", "AutoTokenizer": ["evil.T", None]}
        folders = {
            "program": {**sizes, "model_type": "evilbert", "auto_map": code},
            "known": {**sizes, "model_type": "bert", "auto_map": code},
            "elsewhere": {
                **sizes,
                "model_type": "bert",
                "auto_map": {"AutoModel": "example/example--evil.M"},
                "_name_or_path": "example/example",
            },
            "large": {**sizes, "model_type": "bert", "hidden_size": 10**7, "num_hidden_layers": 10**6},
            "types": {**sizes, "model_type": ["bert"], "hidden_size": "x"},
            "terminal": {**sizes, "model_type": TERMINAL},
        }
        for name, config in folders.items():
            folder = self.place("encoder", name)
            (folder / "config.json").write_text(json.dumps(config))
            (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "T", "auto_map": code}))
            (folder / "evil.py").write_text(self.program + "C = M = T = object\n")
            (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Runs(exec, self.program)))
            yield from self._encoder(name, folder)
        yield from self._encoder("absent", Path("example/example"))

    def _encoder(self, name: str, folder: Path) -> Iterator[Job]:
        file = self.place("encoder-config", name) / "c.yaml"
        embedder = {"use": "hf_text", "model": str(folder), "max_length": 8}
        slot = {"input_key": "caption", "ucg_value": "", "embedder": embedder}
        network = {
            "num_classes": None,
            "adm_in_channels": None,
            "context_dim": 8,
            "attention_resolutions": [2],
            "num_head_channels": 32,
        }
        config = {
            "extends": "digits",
            "model": {"network": network, "conditioner": {"embedders": [slot]}},
            "data": {"use": "digits_captions", "batch_size": 2},
        }
        file.write_text(json.dumps(config))
        for command in (
            ["check", "--shapes", file],
            ["data", "check", file],
            ["train", file, "--dry-run", *SHORT],
            ["cache", file],
        ):
            yield Job(f"encoder/{name}", [str(word) for word in command])

    def prompts(self) -> Iterator[Job]:
        texts = {
            "terminal": TERMINAL.encode(),
            "shift_jis": "狐".encode("shift_jis"),
            "parentheses": b"(" * 100_000,
            "line": b"a" * 5_000_000,
            "many": b"a\n" * 2_000_000,
        }
        for name, text in texts.items():
            file = self.place("prompts", name) / "p.txt"
            file.write_bytes(text)
            yield from self._prompts(name, file)
        for name in ("pipe", "endless", "large"):
            file = self.place("prompts", name) / "p.txt"
            self._special(name, file)
            yield from self._prompts(name, file)

    def _prompts(self, name: str, file: Path) -> Iterator[Job]:
        yield Job(
            f"prompts/{name}", ["sample", str(self.run), "--prompts", str(file), "--out", str(self.out / "prompts")]
        )

    def runs(self) -> Iterator[Job]:
        """Folders of a run."""
        deep, secret = "[" * 100_000, self.outside / "secret.json"
        names = (
            "run.json",
            "lock.json",
            "config.yaml",
            "metrics.jsonl",
            "metrics.csv",
            "checkpoints/step-00000002.ckpt.sha256.json",
        )
        line = json.dumps({"step": 1, TERMINAL: 1.0, "loss": TERMINAL}) + "\n"
        table = f'step,loss,"{TERMINAL}"\n1,{"9" * 200_000},{TERMINAL}\n'
        texts = {
            "deep": dict.fromkeys(names, deep),
            "terminal": {"metrics.jsonl": line, "metrics.csv": table, "config.yaml": json.dumps({TERMINAL: TERMINAL}),
                         "run.json": json.dumps({"state": TERMINAL, "environment": {TERMINAL: TERMINAL}}),
                         "lock.json": json.dumps({"components": [{"name": TERMINAL}]})},
            "markup": {"run.json": json.dumps({"state": "</script><script>alert(1)</script>", "total_steps": 1e308}),
                       "config.yaml": "a: </script><script>alert(1)</script>"},
            "numbers": {"metrics.jsonl": '{"step": 1e15, "loss": 1e308}\n{"step": -1}\n{"step": ' + "9" * 5000 + "}\n",
                        "run.json": json.dumps({"step": 10**400, "seconds": -1e308})},
            "empty": dict.fromkeys(names, ""),
            "garbage": dict.fromkeys(names, "\x00\x80\udcff" * 100),
        }  # fmt: skip
        for name, files in texts.items():
            folder = self._run(name)
            for path, text in files.items():
                (folder / path).write_bytes(text.encode("utf-8", "surrogateescape" if "\udcff" in text else "strict"))
            yield from self._commands(name, folder)
        for path in (*names, "checkpoints/last.ckpt", "model.safetensors", "bad_samples.jsonl"):
            name = f"linked-{Path(path).name}"
            folder = self._run(name)
            (folder / path).unlink(missing_ok=True)
            (folder / path).symlink_to(secret)
            yield from self._commands(name, folder)
        for kind in ("pipe", "endless", "large"):
            folder = self._run(kind)
            for path in (*names, "checkpoints/last.ckpt"):
                (folder / path).unlink(missing_ok=True)
                self._special(kind, folder / path)
            yield from self._commands(kind, folder)
        for name in ("checkpoints", "images"):
            folder = self._run(f"folder-{name}")
            shutil.rmtree(folder / name, ignore_errors=True)
            (folder / name).symlink_to(self.outside / "run" / name, target_is_directory=True)
            yield from self._commands(f"folder-{name}", folder)
        for name, holder in {
            "lock_number": '{"host": "x", "pid": Infinity}',
            "lock_digits": '{"host": "x", "pid": ' + "9" * 5000 + "}",
            "lock_deep": "[" * 100_000,
            "lock_terminal": json.dumps({"host": TERMINAL, "pid": 1}),
            "lock_types": '{"host": [], "pid": "1"}',
        }.items():
            folder = self._run(name)
            (folder / ".running.json").write_text(holder)
            yield from self._commands(name, folder)
        held = self._run("lock_pipe")
        os.mkfifo(held / ".running.json")
        os.mkfifo(held / ".running.lock")
        yield from self._commands("lock_pipe", held)
        loops = self._run("states")
        for path in (loops / "checkpoints").glob("*.json"):
            path.unlink()
        for path in (loops / "checkpoints").glob("*.ckpt"):
            good = torch.load(path, weights_only=True)
            path.unlink()
            torch.save(
                {**good, "loops": 5, "callbacks": [1], "optimizer_states": 5, "lr_schedulers": None, "sgm_plugins": 5},
                path,
            )
        yield from self._commands("states", loops)
        moments = self._run("moments")
        for path in (moments / "checkpoints").glob("*.json"):
            path.unlink()
        for path in (moments / "checkpoints").glob("*.ckpt"):
            good = torch.load(path, weights_only=True)
            for state in good["optimizer_states"][0]["state"].values():
                state["exp_avg"] = state["exp_avg_sq"] = torch.zeros(1)
            path.unlink()
            torch.save(good, path)
        yield from self._commands("moments", moments)
        kept = self._run("kept")
        (kept / "nonfinite").mkdir()
        torch.save({"x": Runs(exec, self.program)}, kept / "nonfinite" / "step-00000002.pt")
        torch.save({"x": Runs(exec, self.program)}, kept / "nonfinite" / "step-00000002.ckpt")
        yield from self._commands("kept", kept)

    def _run(self, name: str) -> Path:
        folder = self.place("run", name or "whole") / "r"
        return shutil.copytree(self.run, folder)

    def _commands(self, name: str, folder: Path) -> Iterator[Job]:
        for command in (
            ["inspect", folder],
            ["report", folder, "--out", self.out / "report.html"],
            ["report", folder],
            ["replay", folder],
            ["sample", folder, *SHORT_SAMPLE, "--out", self.out / "run"],
            ["train", "--resume", folder, "trainer.max_steps=5"],
        ):
            yield Job(f"run/{name}", [str(word) for word in command])

    def _special(self, kind: str, path: Path) -> None:
        """In the place of a file, what never ends, or has no end in sight."""
        match kind:
            case "pipe":
                os.mkfifo(path)
            case "endless":
                path.symlink_to("/dev/zero")
            case "large":
                path.touch()
                os.truncate(path, 20 << 30)

    def _program_beside(self, folder: Path) -> None:
        """What would be run if a folder of the files, or that of the command, were on the path of imports."""
        (folder / "evil.py").write_text(self.program)
        about = folder / "evil-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text("Name: evil\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text("[sgm.plugins]\nevil = evil\n[sgm.networks]\nevil = evil:Network\n")


SHORT_SAMPLE = ["--cond", "cls=1", "--steps", "1", "--device", "cpu"]
SHORT = [
    "trainer.max_steps=1",
    "trainer.accelerator=cpu",
    "trainer.callbacks=[]",
    "data.batch_size=2",
    "trainer.limit_val_batches=0",
]
UNCONDITIONAL = [
    "trainer.max_steps=1",
    "trainer.accelerator=cpu",
    "trainer.callbacks=[]",
    "trainer.limit_val_batches=0",
    "model.conditioner=null",
    "model.network={use: unet, in_channels: 1, out_channels: 1, model_channels: 32, num_res_blocks: 1, "
    "attention_resolutions: [], channel_mult: [1]}",
    "model.sampler={use: euler_edm, num_steps: 1, discretization: edm}",
]


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(recipe: str | None, side: int = 8, extra: bytes = b"") -> bytes:
    """A picture with a text."""
    text = b"" if recipe is None else _chunk(b"iTXt", b"sgm\0\0\0\0\0" + recipe.encode("utf-8", "surrogatepass"))
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    rows = zlib.compress((b"\0" * (1 + 3 * 8)) * 8)
    return b"\x89PNG\r\n\x1a\n" + header + text + extra + _chunk(b"IDAT", rows) + _chunk(b"IEND", b"")
