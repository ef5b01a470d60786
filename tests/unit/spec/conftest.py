"""Specs from a text, and the problems that are found in them."""

from __future__ import annotations

import pytest

from mrun.engine.errors import Problem, SpecError
from mrun.engine.spec.load import load_spec


@pytest.fixture
def load(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def load_text(text: str, **options):
        (tmp_path / "spec.yaml").write_text(text, encoding="utf-8")
        return load_spec("spec.yaml", **options)

    return load_text


@pytest.fixture
def problems_of(load):
    def find(text: str, **options) -> tuple[Problem, ...]:
        with pytest.raises(SpecError) as caught:
            load(text, **options)
        return caught.value.problems

    return find
