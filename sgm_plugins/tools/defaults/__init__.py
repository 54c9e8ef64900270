"""What every run has unless its config says otherwise: a progress bar, grids of pictures, the strategy fsdp2."""
