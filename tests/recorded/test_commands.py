"""Every command with its options and exit codes. Help texts may be reworded; `artefacts/help` holds the old ones."""

import json

import pytest
from recorded.probes import ARTEFACTS, help_of, options, quiet_exit_code, words

RECORDED = json.loads((ARTEFACTS / "commands.json").read_text())


WIDENED = {("convert", "--to"), ("convert", "argument what")}
"""Options that take more by now: the installed families say which forms there are, and schedulers are converted too."""


@pytest.mark.parametrize("command", RECORDED["options"])
def test_a_command_still_takes_its_options(command):
    """Spelling, metavar, number of values, default, choices. There may be more of them."""
    _, parser = help_of([command])
    found, changed = options(parser), []
    for spelling, old in RECORDED["options"][command].items():
        new = found.get(spelling)
        if (command, spelling) in WIDENED and new is not None:
            continue
        if new is None or {**new, "choices": None} != {**old, "choices": None}:
            changed.append((spelling, old, new))
        elif not set(old["choices"] or ()) <= set(new["choices"] or ()):
            changed.append((spelling, old["choices"], new["choices"]))
    assert changed == []


def test_help_lists_every_command():
    text, _ = help_of([])
    assert [command for command in RECORDED["options"] if f"\n  {command} " not in text] == []


@pytest.mark.parametrize("command", sorted({line.split()[0] for line in RECORDED["exit_codes"]}))
def test_exit_codes_are_what_they_were(recorded, command):
    """0 fine, 1 the input is wrong, 2 usage."""
    changed = []
    for line, code in RECORDED["exit_codes"].items():
        if line.split()[0] != command:
            continue
        found, printed = quiet_exit_code(words(line, recorded))
        if found != code:
            changed.append(f"sgm {line}: {found}, was {code}: {printed[-300:]}")
        if code and "Traceback" in printed:
            changed.append(f"sgm {line}: a traceback")
    assert changed == []
