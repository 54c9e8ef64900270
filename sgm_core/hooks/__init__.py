"""What plugins are told, and asked, while a command runs: the entry points of the group `sgm.plugins`.

A component is one by name; a hook is for everyone. `specs` says which hooks there are, `session` when they are called.
"""
