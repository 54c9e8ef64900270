"""`sgm inspect` accepts exactly the headers that the safetensors library accepts."""

import copy
import json
import random
import struct

import pytest
from safetensors import SafetensorError, safe_open

from sgm_core.errors import SgmError
from sgm_plugins.tools.inspect.contents import read_contents

T = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
GOOD = {
    "__metadata__": {"format": "pt"},
    "a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
    "b": {"dtype": "F16", "shape": [3], "data_offsets": [16, 22]},
    "c": {"dtype": "F8_E4M3", "shape": [], "data_offsets": [22, 23]},
    "d": {"dtype": "U8", "shape": [0, 5], "data_offsets": [23, 23]},
}
VALUES = [
    None,
    True,
    -1,
    0,
    1,
    2,
    4,
    16,
    23,
    2**31,
    2**63,
    2**64,
    10**30,
    1.5,
    "",
    "F64",
    "4",
    "x",
    [],
    {},
    [1],
    [[1]],
    {"x": 1},
]


def write(path, header, data=23):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"\0" * data)
    return path


def accepted(path) -> bool:
    try:
        with safe_open(path, framework="np") as file:
            return isinstance(file.keys(), list)
    except (SafetensorError, OSError):
        return False


def agrees(path) -> bool:
    if not accepted(path):
        with pytest.raises(SgmError, match=f"^{path}: .{{1,500}}$"):
            read_contents(path)
        return True
    tensors = read_contents(path).tensors
    with safe_open(path, framework="np") as file:
        return set(file.keys()) == set(tensors)


def mutated(draw: random.Random) -> bytes:
    """A header that was good, with one to three changes: of values, keys, or bytes."""
    header = copy.deepcopy(GOOD)
    for _ in range(draw.randint(1, 3)):
        key = draw.choice(list(header))
        match draw.randrange(6):
            case 0:
                header[key] = copy.deepcopy(draw.choice(VALUES))
            case 1 if isinstance(header[key], dict) and header[key]:
                header[key][draw.choice(list(header[key]))] = copy.deepcopy(draw.choice(VALUES))
            case 2 if isinstance(header[key], dict) and isinstance(header[key].get("shape"), list):
                header[key]["shape"] = draw.choices([0, 1, 2, 3, 4, -1, 2**62], k=draw.randint(0, 3))
            case 3 if isinstance(header[key], dict):
                header[key]["data_offsets"] = draw.choices([0, 4, 16, 22, 23, 24, -1], k=draw.choice([1, 2, 2, 2, 3]))
            case 4:
                header[draw.choice(["e", "", "__metadata__", "a\u202e"])] = copy.deepcopy(
                    draw.choice([T, {}, {"a": "b"}, {"a": 1}])
                )
            case 5 if len(header) > 1:
                del header[key]
    text = json.dumps(header)
    if draw.random() < 0.2:
        text = text.replace('"b":', '"a":')  # a key that comes twice
    raw = bytearray(text, "utf-8")
    if draw.random() < 0.2 and raw:
        raw[draw.randrange(len(raw))] = draw.randrange(256)
    return bytes(raw)


@pytest.mark.parametrize("count", [1500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_what_the_library_refuses_is_refused_and_nothing_else(count, tmp_path):
    draw, kinds = random.Random(count), set()
    for i in range(count):
        header = mutated(draw)
        path = write(tmp_path / "m.safetensors", header, draw.choice([23, 23, 23, 0, 22, 24]))
        assert agrees(path), (i, header)
        kinds.add(accepted(path))
    assert kinds == {True, False}


@pytest.mark.parametrize(
    "header",
    [
        {"a": {**T, "shape": ["x", 2_000_000_000]}},
        b"[" * 200_000 + b"]" * 200_000,
        {"a": {**T, "dtype": ["F32"]}},
        {"a": {**T, "shape": {"x": 1}}},
        {"a": {**T, "data_offsets": [0, "4"]}},
        {"__metadata__": [1], "a": T},
        {"__metadata__": {"a": 1}, "a": T},
        {"a": {**T, "shape": [10**18] * 100}},
        {"a": T, "b": {**T, "data_offsets": [2, 4]}},
        {"a": {**T, "shape": [-1]}},
        {"a": {**T, "dtype": "F64"}},
        b'{"a": 1',
        b"",
    ],
    ids=lambda header: str(header)[:40],
)
def test_each_of_these_is_one_message(header, tmp_path):
    path = write(tmp_path / "m.safetensors", header, 4)
    assert not accepted(path)
    with pytest.raises(SgmError) as refused:
        read_contents(path)
    assert "\n" not in str(refused.value)
