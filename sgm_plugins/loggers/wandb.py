"""Metrics and images for Weights & Biases."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

# here, so that a missing extra is found when the component is looked up
import wandb  # type: ignore[import-not-found,import-untyped,unused-ignore]
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from sgm_core.errors import SgmError

ID = "run-id.txt"


class WandbMetrics(WandbLogger):
    """Lightning's logger for Weights & Biases (wandb.ai), which keeps its files in `wandb/` in the folder of the run.

    A run that is resumed goes on with the same id there, which `wandb/run-id.txt` remembers; steps that it logs again
    are there twice. Nothing but metrics and pictures is sent: no code, no checkpoints.

    Args:
        project: that the run belongs to.
        name: of the run; None is the name of its folder.
        entity: the user or team that owns the project; None is the user's own default.
        group: of runs that belong together.
        tags: of the run.
        offline: send nothing; `wandb sync RUN/wandb/offline-run-*` does so later. The variable WANDB_MODE=offline says
            the same.
        save_dir: the folder in which `wandb/` goes. None leaves it to whoever starts the run, who calls `write_to`; a
            plain `Trainer` does not, then it is the current folder.
    """

    def __init__(
        self,
        project: str = "sgm",
        name: str | None = None,
        entity: str | None = None,
        group: str | None = None,
        tags: list[str] | None = None,
        offline: bool = False,
        save_dir: Path | None = None,
    ) -> None:
        self._given = save_dir is not None
        super().__init__(
            project=project, name=name, save_dir=save_dir or Path(), entity=entity, group=group, tags=tags,
            mode="offline" if offline else None, save_code=False,
        )  # fmt: skip

    def write_to(self, folder: Path) -> None:
        """Use this folder, unless the constructor was given one. To be called before anything is logged."""
        if not self._given:
            self._save_dir = self._wandb_init["dir"] = str(folder)
        if self._wandb_init["name"] is None:
            self._name = self._wandb_init["name"] = folder.resolve().name

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The run of wandb, which begins when it is first asked for.

        Raises:
            SgmError: wandb refuses: nobody has logged in, say.
        """
        if self._experiment is None:
            self._id = self._wandb_init["id"] = self._own_id()
        try:
            return super().experiment
        except wandb.errors.Error as error:
            raise SgmError(f"wandb: {error} (or send nothing: loggers/wandb with offline: true)") from error

    def _own_id(self) -> str:
        """The id of this folder's run, a new one the first time."""
        file = Path(self._wandb_init["dir"]) / "wandb" / ID
        if not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(uuid.uuid4().hex[:8], encoding="utf-8")
        return file.read_text(encoding="utf-8").strip()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write, and send, what is left; another run may begin in this process."""
        if self._experiment is not None:
            self._experiment.finish(exit_code=0 if status == "success" else 1)
            self._experiment = None
