"""The block `merlin` (or `mrun`) → workers and samples."""

from __future__ import annotations

import re

from mrun.engine.nearest import nearest_hint
from mrun.engine.spec.block import Block
from mrun.engine.spec.environment import read_worker_batch
from mrun.engine.spec.keys import SAMPLES_KEYS
from mrun.engine.spec.model import Samples, Text, WorkerSettings
from mrun.engine.spec.names import check_name
from mrun.engine.spec.problems import capital, quoted
from mrun.engine.spec.texts import has_token
from mrun.engine.spec.yaml_tree import Scalar

#: The forms of a sample table.
SAMPLE_EXTENSIONS = (".npy", ".csv", ".tab")

_ENDS_WITH_TOKEN = re.compile(r"\$\([^()]*\)$")


def find_merlin(top: Block) -> Block | None:
    """The block under either of its names; both at once is an error."""
    first, second = top.mapping.entries.get("merlin"), top.mapping.entries.get("mrun")
    if first is not None and second is not None:
        later = max(first.key, second.key, key=lambda key: (key.line, key.column))
        message = "The blocks 'merlin' and 'mrun' are one block under two names, and this spec has both."
        top.problems.add(message, later, "Move the keys of one into the other.")
    name = "mrun" if first is None else "merlin"
    block = top.block(name)
    if block is not None:
        block.refuse_unknown(("resources", "samples"))
    return block


def read_workers(merlin: Block | None, steps: set[str]) -> tuple[WorkerSettings, ...]:
    """The workers in file order; `steps` are the names of the study's steps."""
    resources = merlin.block("resources") if merlin is not None else None
    if resources is None:
        return ()
    resources.refuse_unknown(("task_server", "overlap", "workers"))
    resources.text("task_server")
    resources.flag("overlap")
    workers = resources.block("workers")
    if workers is None:
        return ()
    return tuple(_worker(entry.key, workers, steps) for entry in workers.entries())


def read_samples(merlin: Block | None, *, has_other_file: bool = False) -> Samples | None:
    """The samples, None if the block is missing or empty.

    Args:
        has_other_file: another file is taken (`--samplesfile`): the block need not name one.
    """
    block = merlin.block("samples") if merlin is not None else None
    if block is None:
        return None
    block.refuse_unknown(("file", "generate", "column_labels", *SAMPLES_KEYS))
    file = block.text("file") if has_other_file else None
    file = file or (
        Text("") if has_other_file else block.required_text("file", "Add 'file: samples.npy', for example.")
    )
    if file.value and not file.value.endswith(SAMPLE_EXTENSIONS) and not _ENDS_WITH_TOKEN.search(file.value):
        message = f"The sample file {quoted(file.value)} ends with none of {', '.join(SAMPLE_EXTENSIONS)}."
        block.problems.add(
            message, file, "Save the samples with numpy.save, or as comma-separated text in a .csv file."
        )
    generate = block.block("generate")
    if generate is not None:
        generate.refuse_unknown(("cmd",))
    return Samples(
        file=file,
        column_labels=_column_labels(block),
        generate=generate.required_text("cmd") if generate is not None else None,
        settings=block.settings(SAMPLES_KEYS),
    )


def _worker(name: Text, workers: Block, steps: set[str]) -> WorkerSettings:
    block = workers.block(name.value, f"worker {quoted(name.value)}")
    if not name.value:
        workers.problems.add("This worker has an empty name.", name, "Give it a name.")
    if block is None:
        return WorkerSettings(name)
    block.refuse_unknown(("args", "steps", "nodes", "batch", "machines"))
    batch = block.block("batch")
    return WorkerSettings(
        name,
        args=block.text("args") or Text(""),
        steps=_worker_steps(block, steps),
        nodes=block.count("nodes", 1, words=("all",)),
        machines=block.texts("machines"),
        batch=read_worker_batch(batch) if batch is not None else {},
    )


def _worker_steps(block: Block, steps: set[str]) -> tuple[Text, ...]:
    texts = block.texts("steps")
    may_grow = any(has_token(name) for name in steps)
    for text in texts:
        if text.value not in steps and text.value != "all" and not may_grow and not has_token(text.value):
            message = f"{capital(block.name)} lists {quoted(text.value)}, which is no step."
            block.problems.add(message, text, nearest_hint(text.value, steps | {"all"}))
    return texts or (Text("all"),)


def _column_labels(block: Block) -> tuple[Text, ...]:
    node = block.node("column_labels")
    if isinstance(node, Scalar) and has_token(node.text.value):
        return (node.text,)  # a variable that holds the list
    if isinstance(node, Scalar) and "," not in node.text.value:
        labels = _blank_separated(node)
    else:
        labels = block.texts("column_labels")
    first: dict[str, Text] = {}
    for label in labels:
        if not has_token(label.value):
            check_name(label, "sample column", block.problems)
        before = first.get(label.value)
        if before is None:
            first[label.value] = label
        else:
            message = f"The column label {quoted(label.value)} stands twice: here and at line {before.line}."
            block.problems.add(message, label, "Give every column a label of its own.")
    return labels


def _blank_separated(node: Scalar) -> tuple[Text, ...]:
    """What a list in a variable becomes in the expanded spec."""
    return tuple(Text(word, node.line, node.column) for word in node.text.value.split())
