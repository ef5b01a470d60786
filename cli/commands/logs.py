"""`mrun logs`: what samples printed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import chain, islice

import click

from mrun.cli.invocation import Invocation, takes_invocation
from mrun.cli.options import sample_options
from mrun.cli.selectors import parse_ranges, plan_of
from mrun.engine.workspace.outputs import SampleOutput, Source, sample_outputs


@click.command("logs")
@click.argument("study", metavar="STUDY")
@sample_options
@click.option("--stderr", "is_stderr", is_flag=True, help="What they wrote to stderr. [default: to stdout]")
@takes_invocation
def command(invocation: Invocation, study: str, steps: tuple[str, ...], samples: str | None, is_stderr: bool) -> None:
    """Print what samples printed.

    It does not matter whether the study's files are full, lean or packed. If there are several samples, a line before
    each says whose output follows, unless you give --quiet. Of a packed sample that ran several times you see the
    output of the last execution that ended. STUDY is a study that the server knows, or its workspace, which needs no
    server.

    \b
    Examples:
      $ mrun logs last --step simulate --samples 17
      $ mrun logs studies/epidemic_20261122-124247 --stderr
    """
    ranges = None if samples is None else parse_ranges(samples)
    found = sample_outputs(plan_of(invocation, study), steps, ranges)
    output = invocation.output
    if output.is_json:
        output.data([_as_json(one, is_stderr=is_stderr) for one in found])
        return
    first = list(islice(found, 2))
    if not first:
        output.note("no output of such samples is there")
    _print(chain(first, found), is_stderr=is_stderr, has_heads=len(first) > 1 and not output.is_quiet)


def _print(found: Iterator[SampleOutput], *, is_stderr: bool, has_heads: bool) -> None:
    """As bytes: what a script prints need not be text."""
    for one in found:
        if has_heads:
            sys.stdout.buffer.write(f"==> {one.instance}, sample {one.sample} <==\n".encode("utf-8", "replace"))
        source = _stream(one, is_stderr=is_stderr)
        for data in source.chunks() if source else ():
            sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def _as_json(one: SampleOutput, *, is_stderr: bool) -> dict[str, object]:
    source = _stream(one, is_stderr=is_stderr)
    text = b"".join(source.chunks()).decode(errors="replace") if source else ""
    stream = "stderr" if is_stderr else "stdout"
    return {"step": one.step, "instance": one.instance, "sample": one.sample, "stream": stream, "text": text}


def _stream(one: SampleOutput, *, is_stderr: bool) -> Source | None:
    return one.err if is_stderr else one.out
