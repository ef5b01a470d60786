"""What a sample leaves in its workspace: one protocol (`way.py`), and three ways: full, lean, packed."""
