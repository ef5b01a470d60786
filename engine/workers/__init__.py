"""Starting workers: in this process, as a child, or on the nodes of an allocation."""
