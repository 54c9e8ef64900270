from pathlib import Path

import sgm_core as sgm
from sgm_core.testing import check_component

from sgm_plugins.tools.new.templates.loggers import ExampleLogger


def test_a_config_finds_it_by_name() -> None:
    found = sgm.resolve("loggers", "sgm-example:example")
    assert found is ExampleLogger


def test_it_keeps_the_contract_of_its_kind() -> None:
    check_component("loggers", ExampleLogger)


def test_each_step_is_a_line_in_the_folder_of_the_run(tmp_path: Path) -> None:
    logger = ExampleLogger()
    logger.write_to(tmp_path)
    logger.log_metrics({"loss": 0.5, "lr": 1e-3}, step=1)
    logger.log_metrics({"loss": 0.25}, step=2)
    assert (tmp_path / "metrics.txt").read_text() == "1 loss=0.5 lr=0.001\n2 loss=0.25\n"
