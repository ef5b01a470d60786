"""The user's own server on this host."""
