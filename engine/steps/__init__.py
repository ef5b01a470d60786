"""Steps: what a spec says of them, their nodes, their scripts; a spec becomes a plan."""
