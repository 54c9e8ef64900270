"""Components as their source describes them: parameters, defaults, documentation and place, without any import.

`component.component_of(entry)` describes one entry of the registry, `json_schema.config_schema()` every one. What can
not be told from source is `AnyType`, with the reason beside it, and never a guess.

Read with `ast`. griffe was tried: its import takes 90 to 110 ms and 155 modules where `ast` takes 12 ms and 16, and it
gives expressions by name too, so that everything here but the file search would still have to be written.
"""
