"""YAML → Spec. The only room that knows YAML."""
