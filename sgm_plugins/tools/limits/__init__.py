"""The infinite noise level: who begins with it, who has a limit there, before anything is built."""
