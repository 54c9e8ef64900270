"""From the files of generative-models to ours: `sgm convert`.

A config is read (`legacy`), its `target:` / `params:` are rewritten by tables of data (`tables`), and the result is
written with comments on what was changed or left out (`document`). Nothing is imported or built: the tables hold names.
"""
