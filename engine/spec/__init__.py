"""YAML → Spec. The only room that knows YAML.

Import from its modules: a package that imported them all would make every command pay for what few need.
"""
