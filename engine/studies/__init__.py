"""What commands do with a study: queue it, make one of a command, give it samples, open it again, estimate its size."""
