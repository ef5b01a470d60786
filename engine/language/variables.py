"""Variables and labels of `env`: overridden by `--vars`, put into one another, into texts, with `$ENV` and `~`.

They are put in as they stand, tokens and all: whether a step uses a parameter or a sample is judged afterwards.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping

from mrun.engine.language.findings import Findings
from mrun.engine.language.names import BUILT_IN, RESERVED
from mrun.engine.language.tokens import Flat, Scanner, Use
from mrun.engine.nearest import nearest_hint
from mrun.engine.spec.model import Spec, Text

_ENVIRONMENT_NAME = re.compile(r"\$(?:(\w+)|\{([^}]*)\})", re.ASCII)
_PLAIN_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_HOME = re.compile(r"~[^/]*")


class Variables:
    """Puts the variables and labels of a spec into its texts. Text that was put in is not scanned again."""

    def __init__(
        self, spec: Spec, overrides: Mapping[str, str], environment: Mapping[str, str], findings: Findings
    ) -> None:
        self._findings = findings
        self._environment = environment
        self._scanner = Scanner(step.name.value for step in spec.steps)
        self.texts = _overridden({**spec.labels, **spec.variables}, overrides, findings)
        self._other_cases = {name.casefold(): name for name in reversed(self.texts)}
        parameters = {parameter.name.value for parameter in spec.parameters}
        self._not_variables = BUILT_IN | {f"{name}{end}" for name in parameters for end in ("", ".label", ".name")}
        self._flats: dict[str, Flat] = {}
        self._trail: list[str] = []
        self._commands: dict[str, bool] = {}

    def flat(self, text: Text, *, is_script: bool = False) -> Flat:
        """Literals, and uses of everything but variables.

        Args:
            is_script: the text is a `cmd` or `restart`, in which `$X` and `~` are the shell's.
        """
        value = text.value
        if "$" not in value and not value.startswith("~"):
            return (value,) if value else ()
        parts: list[str | Use] = []
        offset = 0
        for part in self._scanner.scan(text):
            if isinstance(part, str):
                parts.append(part if is_script else self._with_environment(part, text, offset))
                offset += len(part)
            else:
                parts.extend(self._meant(part, is_script=is_script))
                offset += len(part.raw)
        return tuple(parts)

    def is_command(self, name: str) -> bool:
        """Whether a shell would find a program of that name."""
        if name not in self._commands:
            path = self._environment.get("PATH", os.defpath)
            self._commands[name] = "/" not in name and shutil.which(name, path=path) is not None
        return self._commands[name]

    def _meant(self, use: Use, *, is_script: bool) -> Flat:
        name = use.name
        if name in self.texts and name != "OUTPUT_PATH":
            return self._flat_of(name, use)
        other = self._other_cases.get(name.casefold())
        if name in self._not_variables or other is None or other == "OUTPUT_PATH":
            return (use,)
        if is_script and self.is_command(name):
            message = f"'$({name})' is taken for the variable '{other}', and '{name}' is also a command."
            self._findings.warn(use.text, message, offset=use.offset)
        return self._flat_of(other, use)

    def _flat_of(self, name: str, use: Use) -> Flat:
        if name in self._trail:
            self._note_circle(self._trail[self._trail.index(name) :])
            return (use.raw,)
        if name not in self._flats:
            self._trail.append(name)
            self._flats[name] = self.flat(self.texts[name])
            self._trail.pop()
        return self._flats[name]

    def _note_circle(self, names: list[str]) -> None:
        """Note it at the variable of it that stands first in the file, wherever it was entered: once."""
        texts = [self.texts[name] for name in names]
        first = min(range(len(names)), key=lambda index: (texts[index].line, texts[index].column))
        circle = [*names[first:], *names[:first]]
        shown = " → ".join([*circle, circle[0]])
        text, following = texts[first], [*circle, circle[0]][1]
        offset = max(0, text.value.casefold().find(f"$({following.casefold()})"))
        self._findings.error(text, f"Variables mention each other in a circle: {shown}.", offset=offset)

    def _with_environment(self, literal: str, text: Text, offset: int) -> str:
        """`$X` and `${X}` replaced; one that is not set stays. `~` counts at the beginning of the text only."""

        def value_of(match: re.Match[str]) -> str:
            name = match.group(1) or match.group(2) or ""
            if name in self._environment:
                return self._environment[name]
            # `${X:-default}` is the shell's to read, if it comes to one.
            if _PLAIN_NAME.fullmatch(name):
                message = f"The environment variable '{name}' is not set: '{match.group()}' stays as it is."
                self._findings.warn(text, message, offset=offset + match.start())
            return match.group()

        replaced = _ENVIRONMENT_NAME.sub(value_of, literal)
        if offset == 0 and literal.startswith("~"):
            return _HOME.sub(self._home_of, replaced, count=1)
        return replaced

    def _home_of(self, match: re.Match[str]) -> str:
        if match.group() == "~" and "HOME" in self._environment:
            return self._environment["HOME"]
        # One of a user that there is not stays as it is.
        return os.path.expanduser(match.group())


def variable_values(spec: Spec, overrides: Mapping[str, str], environment: Mapping[str, str]) -> dict[str, str]:
    """The variables of a spec, put into one another; what is no variable stays as it is. Finds no problems."""
    variables = Variables(spec, overrides, environment, Findings(spec.shown_path))
    return {
        name: "".join(part if isinstance(part, str) else part.raw for part in variables.flat(text))
        for name, text in variables.texts.items()
    }


def _overridden(texts: dict[str, Text], overrides: Mapping[str, str], findings: Findings) -> dict[str, Text]:
    """The texts with those of `--vars` in their place; reserved names and unknown keys among these are reported."""
    for name in overrides:
        nowhere = Text(name)
        if name in RESERVED:
            findings.error(nowhere, f"'{name}' is a name of mrun's own, --vars may not set it.")
        elif name not in texts:
            message = f"--vars sets '{name}', which is neither a variable nor a label of env."
            findings.error(nowhere, message, hint=nearest_hint(name, texts, lists_known=False))
    return {name: Text(overrides[name]) if name in overrides else text for name, text in texts.items()}
