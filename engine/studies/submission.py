"""A command without a YAML: its words become a spec, which then goes the way of every spec.

    words → tree → YAML → check → prepare → enqueue (see enqueue.py)

The YAML is kept in the workspace, `merlin_info/<name>.orig.yaml`, and can be checked and queued again. Its one step
runs the command where it was submitted, with arguments that keep their exact text, whatever a shell or mrun would make
of it.
"""

from __future__ import annotations

import os
import re
import secrets
import shlex
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
from msgspec.structs import replace

from mrun.engine.errors import Problem, SpecError, UsageError
from mrun.engine.language.places import INFO_DIR
from mrun.engine.plan.model import Plan
from mrun.engine.spec.dump import dump_spec
from mrun.engine.spec.model import Text, Tree
from mrun.engine.spec.names import RESERVED_NAMES
from mrun.engine.steps.resolved import resolve_at
from mrun.engine.studies.enqueue import Checked, Order, check, prepare
from mrun.engine.table.array import Array
from mrun.engine.table.columns import count_columns

#: The step, hence its directory and files: `<workspace>/run/…/run.out`.
STEP = "run"
_DESCRIPTION = "A command given to mrun submit."
_ARRAY_FILE = "array"
#: The column of an irregular array's table, and that of a regular one's, whose values nobody reads.
_ID_COLUMN, _NO_COLUMN = "ARRAY_ID", "ROW"

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OURS = re.compile(r"(?i:MRUN|MERLIN)_|BASH")
#: Variables that bash does not let be set, sets itself, or finds the command by.
_SHELLS_OWN = frozenset(
    {"_", "DIRSTACK", "EPOCHREALTIME", "EPOCHSECONDS", "EUID", "FUNCNAME", "GROUPS", "HISTCMD", "IFS", "LINENO"}
    | {"OLDPWD", "OPTARG", "OPTIND", "PATH", "PIPESTATUS", "POSIXLY_CORRECT", "PPID", "PWD", "RANDOM", "REPLY"}
    | {"SECONDS", "SHELLOPTS", "SHLVL", "SRANDOM", "UID"}
)
#: Bytes of an argument that are not UTF-8, as Python shows them.
_UNDECODED = re.compile("[\udc80-\udcff]")


class Submission(msgspec.Struct, frozen=True):
    """What the user typed. At most one of `array` and `samples_file` is given; with neither it is one script."""

    name: str
    command: tuple[str, ...]
    #: Where it was typed, and where the command runs.
    cwd: str
    array: Array | None = None
    samples_file: str | None = None
    #: Names of the table's columns; none: C1, C2, ….
    columns: tuple[str, ...] = ()
    queue: str = "merlin"
    walltime: str | None = None
    max_fails: str | None = None


def check_submission(submission: Submission, order: Order, environment: Mapping[str, str]) -> Checked:
    """Find everything that is wrong, without a server and without making anything in the file system that stays.

    Args:
        order: whatever else was asked for. Its path and sample file are set here.

    Raises:
        UsageError: a word can't be what it is given for.
        SpecError: the sample file is unfit.
    """
    if submission.samples_file is not None:
        submission = _with_columns(submission, submission.samples_file)
    with tempfile.TemporaryDirectory(prefix="mrun-") as directory:
        # Read back from a file, as everybody's: what is checked is what can be queued again.
        path = os.path.join(directory, "submitted.yaml")
        Path(path).write_text(dump_spec(submission_tree(submission)), encoding="utf-8")
        order = replace(order, spec_path=path, samples_file=submission.samples_file)
        try:
            checked = check(order, environment, submission.cwd)
        except SpecError as error:
            raise _as_usage(error, path) from error
    # The copies in merlin_info are called by the end of this path; it is where nothing has to be.
    path = os.path.join(submission.cwd, f"{checked.place.name}.yaml")
    spec = replace(checked.resolved.spec, path=path, given_path=path)
    resolved = resolve_at(spec, replace(checked.place, spec_path=path))
    return replace(checked, resolved=resolved, order=replace(order, spec_path=path))


def prepare_submission(checked: Checked) -> Plan:
    """Make the workspace and the plan, whose spec is the one that is kept there. Raises as `prepare`."""
    plan = prepare(checked)
    kept = os.path.join(plan.workspace, INFO_DIR, f"{checked.place.name}.orig.yaml")
    return replace(plan, spec_path=kept)


def submission_tree(submission: Submission) -> Tree:
    """The spec. Text of the user's stands in it so that neither YAML nor tokens nor the shell change it."""
    run: dict[str, Tree] = {"cmd": Text("".join(_script(submission))), "task_queue": Text(submission.queue)}
    for key, value in (("walltime", submission.walltime), ("max_fails", submission.max_fails)):
        if value is not None:
            run[key] = Text(value)
    tree: dict[str, Tree] = {
        "description": {"name": Text(submission.name), "description": Text(_DESCRIPTION)},
        "study": [{"name": Text(STEP), "description": Text(_DESCRIPTION), "run": run}],
    }
    samples = _samples(submission)
    if samples is not None:
        tree["merlin"] = {"samples": samples}
    return tree


def quote(text: str) -> str:
    """One word for bash, in which no `$(` stands that mrun would take for a token."""
    quoted = shlex.quote(text).replace("$(", "$''(")
    return _UNDECODED.sub(lambda byte: f"'$'\\x{ord(byte.group()) - 0xDC00:02x}''", quoted)


def _script(submission: Submission) -> Iterator[str]:
    yield (
        f"cd -- {quote(submission.cwd)} || "
        '{ echo "mrun submit: on $HOSTNAME the command can\'t run in the directory where it was submitted." >&2; '
        "exit 1; }\n"
    )
    if submission.array is not None:
        yield f"export MRUN_ARRAY_ID={_array_id(submission.array)} MRUN_ARRAY_COUNT={submission.array.count}\n"
    for column in submission.columns:
        # A here-document whose end is quoted takes every text as it is; no cell can know how it ends.
        end = f"end_{secrets.token_hex(8)}"
        yield f"IFS= read -r -d '' {column} <<'{end}'\n$({column})\n{end}\n"
        yield f"{column}=${{{column}%$'\\n'}}\nexport {column}\n"
    # In the shell's place: a signal that ends the command is seen as one.
    yield f"exec -- {' '.join(quote(word) for word in submission.command)}\n"


def _array_id(array: Array) -> str:
    if len(array.spans) > 1:
        return f"$({_ID_COLUMN})"
    (span,) = array.spans
    return f"$(( {span.first} + {span.step} * $(MERLIN_SAMPLE_ID) ))"


def _samples(submission: Submission) -> dict[str, Tree] | None:
    if submission.samples_file is not None:
        labels: Tree = [Text(column) for column in submission.columns]
        return {"file": Text(os.path.join(submission.cwd, submission.samples_file)), "column_labels": labels}
    array = submission.array
    if array is None:
        return None
    if len(array.spans) == 1:
        file, column, script = f"{_ARRAY_FILE}.npy", _NO_COLUMN, _rows_script(array.count)
    else:
        file, column, script = f"{_ARRAY_FILE}.csv", _ID_COLUMN, _ids_script(array)
    return {
        "file": Text(f"$(MERLIN_INFO)/{file}"),
        "column_labels": [Text(column)],
        "generate": {"cmd": Text(script)},
    }


def _rows_script(count: int) -> str:
    """A table of so many rows of nothing, for the id follows from the row's number. It takes no room on disk.

    A .npy header of 128 bytes, format version 1.0, then a hole.
    https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
    """
    header = f"{{'descr': '|i1', 'fortran_order': False, 'shape': ({count},), }}"
    path = f"{INFO_DIR}/{_ARRAY_FILE}.npy"
    return f"printf '\\x93NUMPY\\x01\\x00\\x76\\x00%-117s\\n' \"{header}\" > {path} && truncate -s +{count} {path}\n"


def _ids_script(array: Array) -> str:
    """A table of the ids, a row each; written one by one, however many they are."""
    spans = "".join(f"{span.first} {span.last} {span.step}\n" for span in array.spans)
    return (
        '"$MRUN_PYTHON" -c \'\n'
        "import sys\n"
        "for line in sys.stdin:\n"
        "    first, last, step = map(int, line.split())\n"
        '    sys.stdout.writelines(f"{number}\\n" for number in range(first, last + 1, step))\n'
        f"' > {INFO_DIR}/{_ARRAY_FILE}.csv <<'end'\n{spans}end\n"
    )


def _with_columns(submission: Submission, path: str) -> Submission:
    """The submission with names for the table's columns.

    Raises:
        UsageError: a name can't be that of a variable, or stands twice.
        SpecError: there is no such file.
    """
    path = os.path.join(submission.cwd, path)
    if not os.path.isfile(path):
        problem = Problem(f"There is no sample file '{path}'.", path, hint="Name a .npy, .csv or .tab file.")
        raise SpecError([problem])
    # One for what is no table: that is found when it is opened.
    columns = submission.columns or tuple(f"C{number + 1}" for number in range(count_columns(path) or 1))
    for index, column in enumerate(columns):
        if not _IDENTIFIER.fullmatch(column):
            why = "is no name of a variable: use letters, digits and '_'"
        elif _OURS.match(column) or column in RESERVED_NAMES or column in _SHELLS_OWN:
            why = "is a variable that mrun or the shell sets"
        elif column in columns[:index]:
            why = "stands twice"
        else:
            continue
        raise UsageError(f"The column label '{column}' {why}.", hint="For example: --column-labels X,Y,SEED")
    return replace(submission, samples_file=path, columns=columns)


def _as_usage(error: SpecError, path: str) -> SpecError | UsageError:
    """What is wrong with the spec that was made is wrong with the user's words: nobody wrote that file."""
    own = [problem for problem in error.problems if problem.path == path]
    if not own:
        return error
    return UsageError(" ".join(problem.message for problem in own), hint=own[0].hint)
