"""From YAML to built objects.

`tree` reads, `compose` merges, `interpolation` fills in references, `schema` reads signatures, `check` plans, `build`
builds; `sections` is the top level of a file and `api` what the outside calls.
"""
