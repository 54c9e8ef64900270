"""What a family of public models promises."""

from __future__ import annotations

import os
import subprocess
import sys

from sgm_core.checkpoints.family import Family, Form, Request, Shapes, expanded
from sgm_core.checkpoints.layouts import OWN
from sgm_core.checkpoints.recognise import ask
from sgm_core.config.api import load_config
from sgm_core.testing.contract import Constructed
from sgm_core.testing.subject import Subject


class FamilyContract(Constructed):
    """It knows its own files, and no other ones; names go there and back; its configs are there. It needs no torch."""

    def __init__(self, subject: Subject, shapes: Shapes | None = None) -> None:
        super().__init__(subject)
        self.shapes = None if shapes is None else {key: tuple(shape) for key, shape in shapes.items()}

    def check(self) -> None:
        expect, family = self.subject.expect, self.subject.build()
        names = [form.name for form in family.forms]
        for kept, promise, seen, advice in (
            (bool(family.title), "a family has a title, for people", "none", "set `title`"),
            (bool(names), "it says how its files look", "no forms", "set `forms`"),
            (len(set(names)) == len(names), "each of its forms has a name", f"{names}", "name each differently"),
        ):
            expect(kept, promise, seen, advice)
        for model in family.models:
            told = bool(model.config or model.reason)
            expect(
                told, "a model has a config, or says why not", f"none of '{model.title}'", "set `config` or `reason`"
            )
            if model.config:
                with self.subject.trying("its configs are installed", "ship it, in the group `sgm.configs`"):
                    load_config(model.config)
        family.entries(Request(64, 64))
        self._check_others(family)
        if self.shapes is not None:
            self._check_file(family, self.shapes)
        self._check_no_torch()

    def _check_no_torch(self) -> None:
        module = self.subject.target.__module__
        if module == "__main__" or "<locals>" in self.subject.target.__qualname__:
            return
        code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
        path = os.pathsep.join(filter(None, sys.path))
        done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, check=False)
        advice = "import it in no module of the family: `sgm inspect` recognises files without torch"
        self.subject.expect(done.returncode == 0, "it is imported without torch", f"{module} imports it", advice)

    def _check_others(self, family: Family) -> None:
        for name, other in ask(lambda name, other: (name, other)):
            if ":" in name or type(other) is type(family):  # of a plugin
                continue
            for model in other.models:
                shapes = {key: shape for key, shape in model.shapes.items() if shape is not None}
                taken = [mine.title for mine in family.models if mine.fits(shapes) and mine.shapes != model.shapes]
                seen = f"{model.title} of {name} would be {taken and taken[0]}"
                advice = "name a key, or a shape, that only its own files have"
                self.subject.expect(not taken, "it takes no file of another family for its own", seen, advice)

    def _check_file(self, family: Family, shapes: Shapes) -> None:
        expect, form = self.subject.expect, family.recognises(shapes)
        expect(form is not None, "it recognises its own file", "None for the given shapes", "compare `forms` with them")
        assert isinstance(form, Form)
        ours = dict(shapes)
        if form.name != OWN.name and family.models:
            pieces, unknown = expanded(family.rules(form.name, shapes), shapes)
            expect(not unknown, "every key of its file has a place", f"none for {unknown and unknown[0]}", "add a rule")
            ours = {piece.ours: shapes[piece.theirs] for piece in pieces}
        for other in family.forms:
            self._check_names(family, other.name, ours)
        if not form.remedy and any(model.shapes for model in family.models):
            fitting = [model.title for model in family.models if model.fits(ours)]
            expect(bool(fitting), "its file is one of its models", "none of them fits", "compare their `shapes`")
        strangers = [piece.ours for piece in family.lora_names(ours) if piece.ours not in ours]
        expect(not strangers, "LoRA names are of its own keys", f"{strangers[:1]}", "give rules for `keys` only")

    def _check_names(self, family: Family, form: str, ours: Shapes) -> None:
        """There and back: the same pieces, whatever side they are made from."""
        there, _ = expanded(family.rules(form, ours), ours, back=True)
        theirs = dict.fromkeys(piece.theirs for piece in there)
        back, unknown = expanded(family.rules(form, theirs), theirs)
        lost = sorted(set(there) ^ set(back), key=str)
        seen = f"in the form {form}, {unknown[0] if unknown else lost and lost[0][:2]}"
        advice = "`rules` must say the same for keys of either side"
        self.subject.expect(
            not unknown and not lost, "a key that is renamed and renamed back is the same", seen, advice
        )
