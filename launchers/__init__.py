"""How to start a command on given resources. Knows nothing of studies or Redis."""
