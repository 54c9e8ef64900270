"""Texts that are shared tell nothing of the machine."""

import pytest

from sgm_plugins.sharing import shareable


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  root: /home/alice/my pictures/cats", "  root: …/cats"),
        ("  root: '/home/alice/a'", "  root: …/a"),
        ("- /home/alice/a.yaml", "- …/a.yaml"),
        ("root: ~", "root: …"),
        ("root: ~alice/x", "root: …/x"),
        (r"root: C:\Users\alice\x", "root: …/x"),
        ("paths: [/home/alice/a, /home/alice/b]", "paths: […/a, …/b]"),
        ("/home/alice/c.yaml:3:4", "…/c.yaml:3:4"),
        ("FileNotFoundError: no such file: '/home/alice/x.png'", "FileNotFoundError: no such file: '…/x.png'"),
        ("url: https://example.org/a/b", "url: https://example.org/a/b"),
        ("rate: 1/2 and/or ../x a/b", "rate: 1/2 and/or ../x a/b"),
        ("configs/digits.yaml:17:62", "configs/digits.yaml:17:62"),
        ("", ""),
    ],
)
def test_of_a_path_its_last_part_stays(text, expected):
    assert shareable(text) == expected


def test_what_the_environment_keeps_stands_as_a_name(monkeypatch):
    monkeypatch.setenv("SGM_CONFIG_ENV", "MY_TOKEN, OTHER, EMPTY")
    monkeypatch.setenv("MY_TOKEN", "hunter2SECRET")
    monkeypatch.setenv("EMPTY", "")
    assert shareable("token: a-hunter2SECRET-b") == "token: a-${oc.env:MY_TOKEN}-b"
