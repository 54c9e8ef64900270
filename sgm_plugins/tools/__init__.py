"""The built-in tools: each is a command or a hook plugin, found through entry points like anyone else's."""
