"""A spec file → its Spec, with every problem that can be seen before tokens are expanded."""

from __future__ import annotations

import os
import re
from pathlib import Path

from mrun.engine.errors import Problem
from mrun.engine.spec.block import WHOLE_SPEC, Block
from mrun.engine.spec.depends import check_depends
from mrun.engine.spec.environment import Env, read_batch, read_env
from mrun.engine.spec.merlin_block import find_merlin, read_samples, read_workers
from mrun.engine.spec.model import Parameter, Samples, Spec, Text
from mrun.engine.spec.names import SpecNames, check_clashes
from mrun.engine.spec.parameters import BLOCK as PARAMETERS
from mrun.engine.spec.parameters import read_parameters, with_plain_numbers
from mrun.engine.spec.problems import Problems, quoted
from mrun.engine.spec.steps import read_steps
from mrun.engine.spec.texts import has_token
from mrun.engine.spec.yaml_tree import Mapping, read_tree, to_tree

#: Larger files are no specs: sample tables have files of their own.
MAX_SIZE_BYTES = 4 * 1024 * 1024

_BLOCKS = ("description", "env", "batch", "study", PARAMETERS, "merlin", "mrun", "user")
#: Maestro's own: the order in which it walks through the study.
_UNUSED_BLOCKS = ("execution",)
_NOT_IN_STUDY_NAMES = re.compile(r"[^A-Za-z0-9\-_.() ]")


def load_spec(
    path: str | Path, *, is_lenient: bool = False, has_samples_file: bool = False
) -> tuple[Spec, tuple[Problem, ...]]:
    """The spec in a YAML file, and the warnings about it, in file order.

    Args:
        path: The file. Problems name it as it is given here.
        is_lenient: Whether unknown keys are warnings instead of errors.
        has_samples_file: Whether the samples' file is given elsewhere, and the spec need not name one.

    Raises:
        SpecError: With everything that is wrong, in file order.
    """
    problems = Problems(str(path), is_lenient=is_lenient)
    original = _read_bytes(Path(path), problems)
    root = read_tree(_decode(original, problems), problems)
    root = with_plain_numbers(root, problems)
    absolute = os.path.normpath(Path(path).absolute())
    spec = _read_spec(root, problems, absolute, original, has_samples_file=has_samples_file)
    problems.raise_if_any(spec)
    return spec, problems.warnings


def _read_bytes(path: Path, problems: Problems) -> bytes:
    try:
        with path.open("rb") as file:
            original = file.read(MAX_SIZE_BYTES + 1)
    except FileNotFoundError:
        problems.fail("There is no such file.", hint="Give the path of the spec's YAML file.")
    except IsADirectoryError:
        problems.fail("This is a directory, not a file.", hint="Give the path of the spec's YAML file.")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        problems.fail(f"The file can't be read: {reason}.", hint="Check its path and its permissions.")
    if len(original) > MAX_SIZE_BYTES:
        limit = MAX_SIZE_BYTES // (1024 * 1024)
        problems.fail(f"The file has more than {limit} MiB.", hint="Keep sample tables in files of their own.")
    return original


def _decode(original: bytes, problems: Problems) -> str:
    try:
        return original.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = original[: error.start]
        place = Text("", before.count(b"\n") + 1, len(before) - before.rfind(b"\n"))
        message = f"The file is not UTF-8 text: it holds the byte 0x{original[error.start]:02X}."
        problems.fail(message, place, "Save it as UTF-8.")


def _read_spec(root: Mapping, problems: Problems, path: str, original: bytes, *, has_samples_file: bool) -> Spec:
    top = Block(root, WHOLE_SPEC, problems)
    top.warn_unused(_UNUSED_BLOCKS)
    top.refuse_unknown((*_BLOCKS, *_UNUSED_BLOCKS))
    name, description = _read_description(top)
    env = read_env(top)
    batch = read_batch(top)
    parameters = read_parameters(top)
    steps = check_depends(read_steps(top), problems)
    merlin = find_merlin(top)
    workers = read_workers(merlin, {step.name.value for step in steps})
    samples = read_samples(merlin, has_other_file=has_samples_file)
    check_clashes(_names(env, parameters, samples), problems)
    return Spec(
        path=path,
        original=original,
        tree=to_tree(root),
        name=name,
        description=description,
        steps=steps,
        variables=env.variables,
        labels=env.labels,
        sources=env.sources,
        path_dependencies=env.path_dependencies,
        git_dependencies=env.git_dependencies,
        batch=batch,
        parameters=parameters,
        workers=workers,
        samples=samples,
        given_path=problems.path,
    )


def _read_description(top: Block) -> tuple[Text, Text]:
    block = top.block("description")
    if block is None:
        entry = top.mapping.entries.get("description")
        place = top if entry is None else entry.key
        if top.is_empty("description"):
            hint = "Add 'description:' with 'name: …' and 'description: …' below it."
            top.problems.add("The spec has no block 'description'.", place, hint)
        return Text(""), Text("")
    block.refuse_unknown(("name", "description"))
    name = block.required_text("name", "Give the study a name: it starts its workspace's name.")
    bad = _NOT_IN_STUDY_NAMES.search(name.value)
    if bad is not None and not has_token(name.value):
        message = f"The study's name {quoted(name.value)} holds {quoted(bad.group())}, which a workspace's name can't."
        top.problems.add(message, name, "Use letters, digits, blanks and '-_.()'.")
    return name, block.required_text("description", "Say in a sentence what the study does.")


def _names(env: Env, parameters: tuple[Parameter, ...], samples: Samples | None) -> SpecNames:
    return SpecNames(
        variables=env.variable_names,
        labels=env.label_names,
        dependencies=(*(path.name for path in env.path_dependencies), *(git.name for git in env.git_dependencies)),
        parameters=tuple(parameter.name for parameter in parameters),
        columns=samples.column_labels if samples is not None else (),
    )
