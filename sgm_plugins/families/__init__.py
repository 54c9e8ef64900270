"""Public models, a file for each family. What several of them share: `unet`, `vae` and `text` (keys), `settings` (the
JSON files of diffusers), `stable_diffusion` (the forms that their files come in). No torch is imported."""
