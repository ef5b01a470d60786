"""`batch` of a spec, or a worker's own, and a worker's `nodes` → how it is launched."""

from __future__ import annotations

import shlex

from mrun.engine.errors import LauncherError
from mrun.engine.language.findings import Findings
from mrun.engine.language.resolve import Resolver
from mrun.engine.nearest import nearest_hint
from mrun.engine.spec.model import Spec, Text, WorkerSettings
from mrun.engine.spec.texts import parse_flag, parse_whole
from mrun.engine.steps.durations import parse_walltime_s
from mrun.launchers.find import launcher_named
from mrun.launchers.find import names as launcher_names
from mrun.launchers.worker_launch import ALL, WorkerLaunch

#: Keys that are put into a command line as words of a shell.
_IN_WORDS = ("launch_args", "worker_launch", "flux_start_opts", "flux_exec")
_TEXTS = ("launch_pre", *_IN_WORDS, "bank", "queue", "qos", "reservation", "flux_path")
_KEYS = ("type", "nodes", "walltime", "flux_exec_workers", *_TEXTS)


def read_launch(spec: Spec, settings: WorkerSettings | None, resolver: Resolver, findings: Findings) -> WorkerLaunch:
    """How a worker is launched, noting what is wrong with that. As in Merlin, a worker's own `batch` takes the place of
    the spec's, and nothing of that one is left.

    Args:
        settings: of the worker; None: of one that the spec does not list.
    """
    return _Reader(spec, settings, resolver, findings).read()


class _Reader:
    def __init__(self, spec: Spec, settings: WorkerSettings | None, resolver: Resolver, findings: Findings) -> None:
        own = settings.batch if settings else {}
        common = {key: getattr(spec.batch, key) for key in _KEYS}
        self._texts: dict[str, Text] = own or {key: text for key, text in common.items() if text is not None}
        self._owner = f"batch of worker '{settings.name.value}'" if own and settings else "batch"
        self._settings = settings
        self._resolver = resolver
        self._findings = findings

    def read(self) -> WorkerLaunch:
        for key in _IN_WORDS:
            self._check_words(key)
        return WorkerLaunch(
            type=self._type(),
            nodes=self._nodes(),
            launch_pre=self._text("launch_pre"),
            worker_launch=self._text("worker_launch"),
            launch_args=self._text("launch_args"),
            bank=self._text("bank"),
            queue=self._text("queue"),
            qos=self._text("qos"),
            reservation=self._text("reservation"),
            walltime_s=self._walltime_s(),
            flux_path=self._text("flux_path"),
            flux_start_opts=self._text("flux_start_opts"),
            flux_exec=self._text("flux_exec"),
            has_flux_exec=self._has_flux_exec(),
        )

    def _text(self, key: str) -> str:
        if key not in self._texts:
            return ""
        return self._resolver.study_text(self._texts[key], f"{key} of {self._owner}").strip()

    def _refuse(self, key: str, message: str, hint: str = "") -> None:
        self._findings.error(self._texts[key], message, hint=hint)

    def _check_words(self, key: str) -> None:
        try:
            shlex.split(self._text(key))
        except ValueError as error:
            self._refuse(key, f"{key} of {self._owner} can't be read: {error}.", "Close every quote.")

    def _type(self) -> str:
        kind = self._text("type") or "local"
        if kind not in launcher_names():
            self._refuse("type", f"'{kind}' is no batch type.", nearest_hint(kind, launcher_names()))
            return "local"
        return kind

    def _nodes(self) -> str:
        """The worker's own number comes before that of its batch."""
        own = self._settings.nodes if self._settings else None
        text = own or self._texts.get("nodes")
        if text is None:
            return ""
        value = self._resolver.study_text(text, "nodes of a worker").strip()
        number = parse_whole(value)
        if value != ALL and (number is None or number < 1):
            self._findings.error(text, f"nodes must be a whole number of at least 1, or '{ALL}', not '{value}'.")
            return ""
        if own is not None and self._settings is not None:
            self._warn_of_nodes(own, self._settings.name.value)
        return value if number is None else str(number)

    def _warn_of_nodes(self, nodes: Text, worker: str) -> None:
        kind = self._text("type") or "local"
        try:
            has_effect = "worker_launch" in self._texts or launcher_named(kind).launches_workers
        except LauncherError as error:
            self._refuse("type", error.message, error.hint)
            return
        if not has_effect:
            message = f"'nodes' of worker '{worker}' has no effect with batch type '{kind}': it starts on one machine."
            self._findings.warn(nodes, f"{message} (mrun work --nodes starts workers on the nodes of an allocation.)")

    def _walltime_s(self) -> float | None:
        value = self._text("walltime")
        try:
            return parse_walltime_s(value) if value else None
        except ValueError:
            hint = "Write [[[d:]h:]m:]s or seconds, such as 01:30:00 or 5400."
            self._refuse("walltime", f"'{value}' is not a walltime.", hint)
            return None

    def _has_flux_exec(self) -> bool:
        value = self._text("flux_exec_workers")
        flag = parse_flag(value) if value else True
        if flag is None:
            self._refuse("flux_exec_workers", f"flux_exec_workers must be yes or no, not '{value}'.")
        return flag is not False
