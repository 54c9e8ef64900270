"""`sgm doctor`: loads every plugin, each in a process of its own."""
