"""The engine: spec → plan → store → work, and the words they share. Imports go only to the left."""
