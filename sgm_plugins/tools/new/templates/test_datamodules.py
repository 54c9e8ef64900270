import sgm_core as sgm
import torch
from sgm_core.testing import check_component

from sgm_plugins.tools.new.templates.datamodules import ExampleDataModule


def test_a_config_finds_it_by_name() -> None:
    found = sgm.resolve("datamodules", "sgm-example:example")
    assert found is ExampleDataModule


def test_it_keeps_the_contract_of_its_kind() -> None:
    check_component("datamodules", ExampleDataModule)


def test_the_class_says_which_half_is_bright() -> None:
    batch = next(iter(ExampleDataModule(batch_size=8, length=8).train_dataloader()))
    images, labels = batch["image"], batch["cls"]
    assert images.shape == (8, 1, 8, 8)
    assert sorted(labels.tolist()) == [0, 0, 0, 0, 1, 1, 1, 1]
    left = images[..., :4].mean(dim=(1, 2, 3))
    assert torch.equal(left, 1.0 - 2.0 * labels)


def test_equal_seeds_give_equal_orders() -> None:
    first, second = (next(iter(ExampleDataModule(seed=3).train_dataloader()))["cls"] for _ in range(2))
    assert torch.equal(first, second)
