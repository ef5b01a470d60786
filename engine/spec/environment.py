"""The blocks `env` and `batch` → their types."""

from __future__ import annotations

import msgspec

from mrun.engine.nearest import nearest_hint
from mrun.engine.spec.block import Block
from mrun.engine.spec.model import Batch, GitDependency, PathDependency, Text
from mrun.engine.spec.names import check_name
from mrun.engine.spec.problems import Problems, quoted
from mrun.engine.spec.texts import has_token
from mrun.engine.spec.yaml_tree import Entry, Mapping, Sequence
from mrun.launchers.find import names as launcher_names

_ENV_KEYS = ("variables", "labels", "sources", "dependencies")
_GIT_REFERENCES = ("tag", "branch", "hash")
_BATCH_TEXTS = (
    "bank",
    "queue",
    "launch_pre",
    "launch_args",
    "worker_launch",
    "flux_path",
    "flux_start_opts",
    "flux_exec",
    "flux_exec_workers",
    "reservation",
    "qos",
)
#: Maestro's own keys: they describe the machine that submits, which mrun finds out itself.
_BATCH_UNUSED = ("host", "uri", "version", "args", "gpus", "allocation_args", "launcher_args")
BATCH_KEYS = ("type", "shell", "walltime", "nodes", "dry_run", *_BATCH_TEXTS)


class Env(msgspec.Struct, frozen=True):
    """What the `env` block gives to a Spec, and where the names of its variables and labels stand."""

    variables: dict[str, Text] = {}
    variable_names: tuple[Text, ...] = ()
    labels: dict[str, Text] = {}
    label_names: tuple[Text, ...] = ()
    sources: tuple[Text, ...] = ()
    path_dependencies: tuple[PathDependency, ...] = ()
    git_dependencies: tuple[GitDependency, ...] = ()


def read_env(top: Block) -> Env:
    """The `env` block, empty if there is none."""
    env = top.block("env")
    if env is None:
        return Env()
    env.refuse_unknown(_ENV_KEYS)
    paths: tuple[PathDependency, ...] = ()
    gits: tuple[GitDependency, ...] = ()
    dependencies = env.block("dependencies")
    if dependencies is not None:
        dependencies.refuse_unknown(("paths", "git"))
        paths = tuple(_path_dependency(block) for block in _blocks_of(dependencies, "paths"))
        gits = tuple(_git_dependency(block) for block in _blocks_of(dependencies, "git"))
    variables, variable_names = _texts_by_name(env, "variables")
    labels, label_names = _texts_by_name(env, "labels")
    return Env(variables, variable_names, labels, label_names, env.texts("sources"), paths, gits)


def read_batch(top: Block) -> Batch:
    """The `batch` block, with the defaults of one that is missing."""
    block = top.block("batch")
    if block is None:
        return Batch()
    block.warn_unused(_BATCH_UNUSED)
    block.refuse_unknown((*BATCH_KEYS, *_BATCH_UNUSED))
    texts = {key: block.text(key) for key in _BATCH_TEXTS}
    return Batch(
        type=read_batch_type(block) or Text("local"),
        shell=block.text("shell") or Text("/bin/bash"),
        walltime=block.walltime("walltime"),
        nodes=block.count("nodes", 1, words=("all",)),
        is_dry_run=block.flag("dry_run"),
        **texts,
    )


def read_batch_type(block: Block) -> Text | None:
    """The `type` of any block called `batch`."""
    text = block.text("type")
    if text is not None and not has_token(text.value) and text.value not in (known := launcher_names()):
        message = f"{quoted(text.value)} is no batch type that mrun knows."
        block.problems.add(message, text, nearest_hint(text.value, known))
    return text


def _texts_by_name(env: Block, key: str) -> tuple[dict[str, Text], tuple[Text, ...]]:
    block = env.block(key)
    owner = key.removesuffix("s")
    entries = block.entries() if block is not None else []
    for entry in entries:
        check_name(entry.key, owner, env.problems)
    texts = {entry.key.value: _variable(entry, owner, env.problems) for entry in entries}
    return texts, tuple(entry.key for entry in entries)


def _variable(entry: Entry, owner: str, problems: Problems) -> Text:
    name, value = entry.key.value, entry.value
    if isinstance(value, Mapping):
        hint = "Put the text in quotes if it starts with '{' or holds ': '."
        problems.add(f"The {owner} {quoted(name)} must be a text, a number or a list of them.", value, hint)
    elif isinstance(value, Sequence):
        if not value.items:
            problems.add(f"The {owner} {quoted(name)} is an empty list.", entry.key, "Give it a value.")
        reader = Block(
            Mapping({name: entry}, value.line, value.column, value.size), f"the block 'env.{owner}s'", problems
        )
        texts = reader.texts(name)
        return Text(" ".join(text.value for text in texts), value.line, value.column)
    elif value.is_null or not value.text.value:
        problems.add(f"The {owner} {quoted(name)} has no value.", entry.key, "Give it a text, a number or a list.")
    else:
        return value.text
    return Text("", entry.key.line, entry.key.column)


def _blocks_of(dependencies: Block, key: str) -> list[Block]:
    node = dependencies.node(key)
    name = f"env.dependencies.{key}"
    if node is None:
        return []
    if not isinstance(node, Sequence):
        dependencies.problems.add(f"{name} must be a list.", node, "Start each of its entries with '- name: …'.")
        return []
    blocks = []
    for item in node.items:
        if isinstance(item, Mapping):
            blocks.append(Block(item, f"an entry of {name}", dependencies.problems))
        else:
            dependencies.problems.add(f"An entry of {name} must be a block of keys.", item, "Write '- name: …'.")
    return blocks


def _path_dependency(block: Block) -> PathDependency:
    block.refuse_unknown(("name", "path"))
    name = block.required_text("name")
    if name.value:
        check_name(name, "dependency", block.problems)
    return PathDependency(name, block.required_text("path"))


def _git_dependency(block: Block) -> GitDependency:
    block.refuse_unknown(("name", "path", "url", *_GIT_REFERENCES))
    name = block.required_text("name")
    if name.value:
        check_name(name, "dependency", block.problems)
    references = {key: block.text(key) for key in _GIT_REFERENCES}
    given = [key for key, text in references.items() if text is not None]
    if len(given) > 1:
        message = (
            f"A git dependency takes one of tag, branch and hash, and {quoted(name.value)} has {' and '.join(given)}."
        )
        block.problems.add(message, references[given[1]], "Keep one of them.")
    return GitDependency(name, block.required_text("path"), block.required_text("url"), **references)


def read_worker_batch(block: Block) -> dict[str, Text]:
    """A worker's own `batch` block: its keys are checked, its texts kept by key."""
    block.refuse_unknown((*BATCH_KEYS, *_BATCH_UNUSED))
    block.warn_unused(_BATCH_UNUSED)
    read_batch_type(block)
    checked = {"walltime": block.walltime("walltime"), "nodes": block.count("nodes", 1, words=("all",))}
    texts = {key: checked[key] if key in checked else block.text(key) for key in BATCH_KEYS}
    return {key: text for key, text in texts.items() if text is not None}
