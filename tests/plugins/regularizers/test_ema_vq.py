import pytest
import torch

from sgm_plugins.regularizers.ema_vq import EMAVectorQuantizer


def test_the_codebook_goes_to_the_means_of_what_is_near():
    """Two clusters, two entries: k-means."""
    centres = torch.tensor([[5.0, 0.0], [0.0, -5.0]])
    quantizer = EMAVectorQuantizer(2, 2, decay=0.5).train()
    quantizer.embedding.weight.copy_(centres.sign())
    quantizer.embedding.embed_avg.copy_(centres.sign())
    for step in range(30):
        noise = torch.randn(256, 2, generator=torch.Generator().manual_seed(step))
        quantizer(centres.repeat(128, 1) + 0.1 * noise)
    torch.testing.assert_close(quantizer.embedding.weight, centres, atol=0.03, rtol=0)


def test_the_codebook_moves_in_training_only_and_by_no_gradient():
    quantizer, z = EMAVectorQuantizer(5, 3), torch.randn(4, 3, 2, 2, requires_grad=True)
    before = quantizer.embedding.weight.clone()
    quantizer.eval()(z)
    assert torch.equal(quantizer.embedding.weight, before)
    quantized, log = quantizer.train()(z)
    assert not torch.equal(quantizer.embedding.weight, before)
    torch.testing.assert_close(quantized, before[log["indices"]].movedim(-1, 1))  # of before the step
    assert list(quantizer.parameters()) == []
    assert set(quantizer.state_dict()) == {f"embedding.{key}" for key in ("weight", "cluster_size", "embed_avg")}


@pytest.mark.parametrize("beta", [0.25, 1.0])
def test_the_loss_pulls_the_encoder_to_the_codebook(beta):
    z = torch.randn(4, 3, 2, 2, requires_grad=True)
    quantized, log = EMAVectorQuantizer(5, 3, beta=beta).eval()(z)
    torch.testing.assert_close(log["vq_loss"], beta * (quantized - z).square().mean())
    log["vq_loss"].backward()
    torch.testing.assert_close(z.grad, beta * 2 * (z - quantized).detach() / z.numel())


def test_an_entry_that_nothing_is_near_to_stays_finite():
    quantizer = EMAVectorQuantizer(5, 3).train()
    for _ in range(200):
        quantizer(torch.ones(2, 3, 2, 2))
    assert quantizer.embedding.weight.isfinite().all()


def count_everywhere(rank, folder):
    """One of two processes, with its half of the vectors."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.manual_seed(0)
    quantizer = EMAVectorQuantizer(5, 3).train()
    quantizer(torch.randn(8, 3, generator=torch.Generator().manual_seed(9)).chunk(2)[rank])
    torch.save(quantizer.state_dict(), f"{folder}/{rank}.pt")


def test_two_processes_keep_one_codebook(tmp_path):
    running = torch.multiprocessing.start_processes(
        count_everywhere, (str(tmp_path),), nprocs=2, join=False, daemon=True, start_method="fork"
    )
    for process in running.processes:
        process.join(60)
        assert process.exitcode == 0
    torch.manual_seed(0)
    alone = EMAVectorQuantizer(5, 3).train()
    alone(torch.randn(8, 3, generator=torch.Generator().manual_seed(9)))
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for key, value in alone.state_dict().items():
            torch.testing.assert_close(found[key], value)
