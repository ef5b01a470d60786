"""The texts of a spec with all put in that holds for the whole study: for the copies of the spec in the workspace."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from mrun.engine.language.names import Meaning
from mrun.engine.language.tokens import Use
from mrun.engine.spec.model import Text
from mrun.engine.steps.resolved import Resolved


def text_expander(resolved: Resolved) -> Callable[[Text], str]:
    """A function that expands any text of the spec; tokens that depend on step, row or sample stay as they are.

    What `--vars` sets stands in the place of what env said.
    """
    spec, resolver = resolved.spec, resolved.resolver
    scripts = {script for step in spec.steps for script in (step.run.cmd, step.run.restart)}
    scripts.add(spec.samples.generate if spec.samples else None)
    env = {**spec.labels, **spec.variables}
    overridden = {env[name]: resolver.variables.texts[name] for name in resolved.place.variables if name in env}

    def known(part: str | Use) -> str | Use:
        if isinstance(part, str):
            return part
        named = resolver.meaning(part.name)
        return resolver.values[named.argument] if named and named.meaning is Meaning.STUDY else part

    def expand(text: Text) -> str:
        text = overridden.get(text, text)
        is_script = text in scripts
        parts = [known(part) for part in resolver.variables.flat(text, is_script=is_script)]
        expanded = "".join(part if isinstance(part, str) else part.raw for part in parts)
        # What was put in may make a token of what stands beside it, or escape one: then it stays as it was written.
        again = resolver.variables.flat(Text(expanded), is_script=is_script)
        return expanded if _joined(again) == _joined(parts) else text.value

    return expand


def _joined(parts: Iterable[str | Use]) -> list[str]:
    """Literals and tokens in turn."""
    joined = [""]
    for part in parts:
        if isinstance(part, str):
            joined[-1] += part
        else:
            joined += [part.raw, ""]
    return joined
