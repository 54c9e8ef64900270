"""The recipes of docs/embedders.md, as the files that a reader would make of them."""

import re
import shlex

from support.places import ROOT

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
DOCUMENT = ROOT / "docs" / "embedders.md"


def files() -> tuple[dict[str, str], list[str]]:
    """The contents of the files by name, and the blocks of Python that are none.

    A config's name is in the command that it begins with; that of a Python file stands in the text before it.
    """
    text = DOCUMENT.read_text(encoding="utf-8")
    named: dict[str, str] = {}
    loose: list[str] = []
    end = 0
    for block in BLOCK.finditer(text):
        before, end = text[end : block.start()], block.end()
        language, body = block.groups()
        if language == "yaml":
            named[next(word for word in command(body) if word.endswith(".yaml"))] = body
        elif language == "python":
            file = re.search(r"`(\w+\.py)`", before)
            if file:
                named[file[1]] = body
            else:
                loose.append(body)
    return named, loose


def command(config: str) -> list[str]:
    """The words of the command in a config's first line, without `sgm`."""
    words = shlex.split(config.splitlines()[0].removeprefix("# "))
    assert words[:2] == ["sgm", "train"]
    return words[1:]


FILES, LOOSE = files()
CONFIGS = [name for name in FILES if name.endswith(".yaml")]
WITH_TRANSFORMERS = ["encoder.yaml", "lora.yaml"]  # run where the example plugin has brought it
FEW_STEPS = ["trainer.max_steps=3", "trainer.callbacks=[]", "trainer.log_every_n_steps=1"]
