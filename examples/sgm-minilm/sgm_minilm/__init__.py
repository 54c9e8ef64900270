"""Components for sgm: the embedders `minilm` and `minilm_adapter`."""
