"""The `study` list → steps."""

from __future__ import annotations

import re

import msgspec

from mrun.engine.spec.block import Block
from mrun.engine.spec.environment import read_batch_type
from mrun.engine.spec.keys import COUNT_KEYS, FLAG_KEYS, RUN_KEYS, UNUSED_COUNT_KEYS
from mrun.engine.spec.model import Run, Step, Text
from mrun.engine.spec.problems import Problems, capital, quoted
from mrun.engine.spec.texts import has_token
from mrun.engine.spec.yaml_tree import Entry, Mapping, Sequence

_RESOURCE_KEYS = COUNT_KEYS | UNUSED_COUNT_KEYS | FLAG_KEYS
_RESOURCE_TEXTS = ("bind", "bind gpus", "launch distribution", "reservation", "priority", "qos")
_LAUNCHERS = ("slurm", "lsf", "flux", "pbs")
#: Keys of old Maestro specs that Maestro itself does not act on.
_RUN_UNUSED = ("pre", "post", "use_broker")
_RUN_KEYS = (
    "cmd",
    "restart",
    "depends",
    "task_queue",
    "shell",
    "batch",
    "walltime",
    "resources",
    *RUN_KEYS,
    *_RESOURCE_KEYS,
    *_RESOURCE_TEXTS,
    *_LAUNCHERS,
)
_SPELLINGS = {key.replace(" ", "_"): key for key in _RUN_KEYS if " " in key}
#: Directories of a workspace that are no step's.
_TAKEN_DIRECTORIES = ("merlin_info", "mrun_info")
_DIRECTORY_CHARACTERS = re.compile(r"[A-Za-z0-9\-_.() ]")


def read_steps(top: Block) -> tuple[Step, ...]:
    """The steps in file order; one whose name is missing has an empty one, after that has been noted."""
    problems = top.problems
    node = top.node("study")
    if node is None or top.is_empty("study"):
        problems.add("The spec has no steps.", _study_place(top), "Add a block 'study:' with at least one '- name: …'.")
        return ()
    if not isinstance(node, Sequence):
        problems.add("The block 'study' must be a list of steps.", node, "Start each step with '- name: …'.")
        return ()
    steps = []
    for item in node.items:
        if isinstance(item, Mapping):
            steps.append(_step(item, problems))
        else:
            problems.add("A step must be a block of keys.", item, "Write '- name: …', 'description: …' and 'run:'.")
    _check_duplicates(steps, problems)
    return tuple(steps)


def _study_place(top: Block) -> Block | Text:
    entry = top.mapping.entries.get("study")
    return top if entry is None else entry.key


def _step(mapping: Mapping, problems: Problems) -> Step:
    step = Block(mapping, "a step", problems)
    given_name = step.text("name")
    if given_name is not None:
        step.name = f"step {quoted(given_name.value)}"
    step.refuse_unknown(("name", "description", "run"))
    name = step.required_text("name")
    description = step.required_text("description", "Say in a sentence what the step does.")
    if given_name is not None:
        _check_directory(given_name, problems)
    run = step.block("run")
    if run is None:
        if step.is_empty("run"):
            problems.add(f"{capital(step.name)} has no block 'run'.", step, "Add 'run:' with 'cmd: …' below it.")
        return Step(name, description, Run(cmd=Text("", step.line, step.column)))
    return Step(name, description, _run(run))


def _check_directory(name: Text, problems: Problems) -> None:
    if has_token(name.value):
        return
    directory = "".join(_DIRECTORY_CHARACTERS.findall(name.value)).replace(" ", "_")
    if not directory.strip(".") or directory in _TAKEN_DIRECTORIES:
        message = f"{quoted(name.value)} can't be the name of a step, because it can't be the name of its directory."
        problems.add(message, name, "Use letters, digits, '_', '-' and '.'; merlin_info and mrun_info are taken.")


def _run(given: Block) -> Run:
    given.warn_unused(_RUN_UNUSED)
    given.refuse_unknown((*_RUN_KEYS, *_SPELLINGS, *_RUN_UNUSED))
    run = Block(_with_spaced_keys(given), given.name, given.problems)
    return Run(
        cmd=run.required_text("cmd", "Add 'cmd: |' with the commands of the step."),
        restart=run.text("restart"),
        depends=_depends(run),
        task_queue=_task_queue(run),
        shell=run.text("shell"),
        batch_type=_batch_type(run),
        walltime=run.walltime("walltime"),
        resources=run.settings(_RESOURCE_KEYS) | _texts(run, _RESOURCE_TEXTS),
        launcher_texts=_texts(run, _LAUNCHERS),
        named_resources=_named_resources(run),
        settings=run.settings(RUN_KEYS),
    )


def _with_spaced_keys(run: Block) -> Mapping:
    """`cores_per_task` is `cores per task`; giving both is giving one key twice."""
    entries: dict[str, Entry] = {}
    for key, entry in run.mapping.entries.items():
        spaced = _SPELLINGS.get(key, key)
        if spaced in entries:
            message = f"{quoted(key)} of {run.name} stands twice, with blanks and with underscores."
            run.problems.add(message, entry.key, "Keep one of the two.")
        entries.setdefault(spaced, entry)
    return msgspec.structs.replace(run.mapping, entries=entries)


def _depends(run: Block) -> tuple[Text, ...]:
    texts = run.texts("depends")
    seen: set[str] = set()
    for text in texts:
        if text.value in seen:
            run.problems.add(f"{quoted(text.value)} stands twice in depends of {run.name}.", text, "Remove one.")
        seen.add(text.value)
    return texts


def _task_queue(run: Block) -> Text:
    text = run.text("task_queue")
    # Merlin reads the word none as no queue of its own.
    return Text("merlin") if text is None or text.value.lower() == "none" else text


def _batch_type(run: Block) -> Text | None:
    batch = run.block("batch")
    if batch is None:
        return None
    batch.refuse_unknown(("type",))
    return read_batch_type(batch)


def _texts(run: Block, keys: tuple[str, ...]) -> dict[str, Text]:
    return {key: text for key in keys if (text := run.text(key)) is not None}


def _named_resources(run: Block) -> dict[str, Text]:
    block = run.block("resources")
    names = [entry.key.value for entry in block.entries()] if block is not None else []
    amounts = {name: block.count(name, 1) for name in names} if block is not None else {}
    return {name: amount for name, amount in amounts.items() if amount is not None}


def _check_duplicates(steps: list[Step], problems: Problems) -> None:
    first: dict[str, Text] = {}
    for step in steps:
        before = first.get(step.name.value)
        if before is None:
            first[step.name.value] = step.name
        elif step.name.value:
            message = f"The step name {quoted(step.name.value)} stands twice: here and at line {before.line}."
            problems.add(message, step.name, "Rename one of the two steps.")
