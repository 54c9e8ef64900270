import sgm_core as sgm
import torch
from sgm_core.testing import check_component

from sgm_plugins.tools.new.templates.engines import ExampleEngine


def test_a_config_finds_it_by_name() -> None:
    found = sgm.resolve("engines", "sgm-example:example")
    assert found is ExampleEngine


def test_it_keeps_the_contract_of_its_kind() -> None:
    check_component("engines", ExampleEngine, inputs={"image": torch.rand(2, 1, 4, 4)}, shape=[1, 4, 4])


def test_it_learns_the_mean_of_its_data() -> None:
    batch = {"image": torch.rand(8, 1, 4, 4)}
    engine = ExampleEngine(shape=[1, 4, 4])
    optimizer = engine.configure_optimizers()
    for i in range(60):
        optimizer.zero_grad()
        engine.training_step(batch, i).backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        optimizer.step()
    torch.testing.assert_close(engine.mean.detach(), batch["image"].mean(0), atol=1e-4, rtol=0)
