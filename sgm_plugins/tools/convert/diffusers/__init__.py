"""Between one file in the layout of generative-models and a folder of diffusers: Stable Diffusion 2 and XL.

Each part has a file: the names of its blocks on both sides (`unet`, `vae`, `text`), as tables from ours to theirs.
`folder` reads and writes the folder, `settings` the JSON files in it. Nothing of diffusers is imported.
"""
