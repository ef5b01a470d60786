"""Spec → Plan: parameters × steps become nodes and edges; sample tables; tokens.

Import from its modules: a package that imported them all would make every command pay for what few need.
"""
