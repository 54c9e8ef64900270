"""What plugins are told, and asked, while a command runs: the entry points of the group `sgm.plugins`."""
