import torch
from support.benchmark import benchmark

from sgm_core.building.loaded import load_engine


def test_the_file_of_the_benchmark_is_one_that_the_model_loads(tmp_path):
    loading = benchmark("loading_large")
    path = tmp_path / "flux.safetensors"
    weights = loading.write_sparse(path, tiny=True)
    engine = load_engine(path, loading.config(tiny=True), dtype=torch.bfloat16)
    parameters = list(engine.model.parameters())
    assert sum(parameter.numel() for parameter in parameters) == weights
    assert path.stat().st_size > 2 * weights
    assert all(parameter.dtype == torch.bfloat16 and not parameter.any() for parameter in parameters)
