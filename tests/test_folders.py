"""Each folder of tests works alone, as the author of a new component runs it."""

import pytest
from support.places import ROOT


@pytest.mark.slow
def test_each_folder_is_collected_alone(sgm_forked, monkeypatch):
    monkeypatch.chdir(ROOT)
    folders = sorted({file.parent for file in (ROOT / "tests").rglob("test_*.py")})
    code = "import sys, pytest; sys.exit(pytest.main(['--collect-only', '-q', '-p', 'no:cacheprovider', sys.argv[1]]))"
    found = {}
    for folder in folders:
        collecting = sgm_forked(folder, code=code)
        if collecting.wait() != 0:
            found[str(folder.relative_to(ROOT))] = collecting.out[-2000:] + collecting.err[-1000:]
    assert not found, "\n\n".join(f"{folder}:\n{said}" for folder, said in found.items())
