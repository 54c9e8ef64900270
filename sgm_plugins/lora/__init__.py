"""Low-rank updates of a model's layers (LoRA): their file forms, their names, and adding them to weights.

Nothing here needs peft; training does, see the adapter `lora`.
"""
