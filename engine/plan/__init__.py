"""Spec → Plan: parameters × steps become nodes and edges; sample tables; tokens."""
