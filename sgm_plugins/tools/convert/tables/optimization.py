"""Optimizers and learning-rate schedules."""

from __future__ import annotations

from sgm_plugins.tools.convert.rewriter import Action, Rule
from sgm_plugins.tools.convert.rules import drop, keep, keeps

TORCH = {
    "AdamW": "adamw",
    "Adam": "adam",
    "Adamax": "adamax",
    "Adafactor": "adafactor",
    "Adagrad": "adagrad",
    "Adadelta": "adadelta",
    "NAdam": "nadam",
    "RAdam": "radam",
    "RMSprop": "rmsprop",
    "SGD": "sgd",
}

SILENT: dict[str, Action] = {"verbosity_interval": drop("the learning rate is logged as lr_abs")}
COSINE: dict[str, Action] = {
    **SILENT,
    "warm_up_steps": keep("warmup_steps"),
    "max_decay_steps": keep("total_steps"),
    "lr_start": keep("start_factor"),
    "lr_max": keep("peak_factor"),
    "lr_min": keep("end_factor"),
}
CYCLES: dict[str, Action] = {
    **SILENT,
    **keeps("cycle_lengths"),
    "warm_up_steps": keep("warmup_steps"),
    "f_start": keep("start_factors"),
    "f_max": keep("peak_factors"),
    "f_min": keep("end_factors"),
}

OFFLOADED = "there its moments were on the CPU"
BOTH = ("sgm", "ldm")

RULES: dict[str, tuple[Rule, ...]] = {
    **{name: (Rule("optimizers", ours, any_param=True, packages=("torch",)),) for name, ours in TORCH.items()},
    "DeepSpeedCPUAdam": (Rule("optimizers", "adamw", note=OFFLOADED, any_param=True, packages=("deepspeed",)),),
    "LambdaWarmUpCosineScheduler": (Rule("lr_schedules", "cosine", COSINE, packages=BOTH),),
    "LambdaWarmUpCosineScheduler2": (Rule("lr_schedules", "cosine_cycles", CYCLES, packages=BOTH),),
    "LambdaLinearScheduler": (Rule("lr_schedules", "linear_cycles", CYCLES, packages=BOTH),),
}
