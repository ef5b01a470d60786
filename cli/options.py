"""The options that several commands have. A group of options is one decorator."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click
import msgspec

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def grouped(*options: Decorator) -> Decorator:
    """Several options as one decorator; the help lists them in this order."""
    return lambda function: functools.reduce(lambda inner, option: option(inner), reversed(options), function)


class CommonWords(msgspec.Struct):
    """The values of the common options, on either side of the command's name."""

    broker: str | None = None
    namespace: str | None = None
    durability: str | None = None
    is_json: bool = False
    is_quiet: bool = False


def _note(ctx: click.Context, option: click.Parameter, value: Any) -> None:
    assert option.name is not None
    # An option that was not given says nothing: it may stand on the other side of the command's name.
    if value:
        setattr(ctx.ensure_object(CommonWords), option.name, value)


def _common(*words: str, **options: Any) -> Decorator:
    return click.option(*words, expose_value=False, callback=_note, **options)


#: What every command takes, before its name or after: `mrun --json status` is `mrun status --json`. The values arrive
#: in the context's `CommonWords`, not as arguments.
common_options = grouped(
    _common("--broker", metavar="URL", help="Server to use: redis://host:port, unix:///path. [default: your own]"),
    _common("--namespace", metavar="NAME", help="Prefix of all keys on the server. [default: mrun]"),
    _common(
        *("--durability",), metavar="HOW",
        help="strict: mrun goes on when what was queued, or ended, is on the server's disk. [default: everysec]",
    ),
    _common("--json", "is_json", is_flag=True, help="Print one JSON value instead of text."),
    _common("-q", "--quiet", "is_quiet", is_flag=True, help="Print ids only."),
)  # fmt: skip


class ManyValues(click.Option):
    """An option that takes every following word up to the next option, as Merlin's `--vars` does.

    Args:
        separator: what those words must contain, because what follows may also be the command's argument.
    """

    def __init__(self, *words: Any, separator: str = "=", **options: Any) -> None:
        super().__init__(*words, **options)
        self._separator = separator

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        """Register with click, and let what follows a value be values, too."""
        super().add_to_parser(parser, ctx)
        registered = parser._long_opt[self.opts[0]]
        process_one = registered.process

        def process(value: str, state: Any) -> None:
            process_one(value, state)
            while state.rargs and not state.rargs[0].startswith("-") and self._separator in state.rargs[0]:
                process_one(state.rargs.pop(0), state)

        registered.process = process


def many_values(*words: str, separator: str = "=", **options: Any) -> Decorator:
    """An option that takes several words."""
    return click.option(*words, cls=ManyValues, multiple=True, separator=separator, **options)


def steps_option(text: str) -> Decorator:
    """`--steps`, which takes several names."""
    return many_values("--steps", separator="", metavar="STEP …", help=text)


samples_file_option = click.option(
    *("--samplesfile", "samples_file"), metavar="FILE", type=click.Path(),
    help="Table of samples to take instead of the spec's own; copied into merlin_info.",
)  # fmt: skip
output_path_option = click.option(
    "-o", "--output-path", metavar="DIR", help="Parent of the study's workspace. [default: OUTPUT_PATH, or here]"
)
#: Which samples `logs` and `extract` are about.
sample_options = grouped(
    click.option("--step", "steps", multiple=True, metavar="S", help="Only samples of this step; may be given again."),
    click.option("--samples", metavar="RANGES", help="Only these sample numbers, such as 1-10,17."),
)
lease_option = click.option(
    "--lease", "lease_s", metavar="SECONDS",
    help="How long a worker may be silent before others take over its samples. [default: 30]",
)  # fmt: skip
#: Of every command that reads a spec.
order_options = grouped(
    many_values("--vars", "variables", metavar="K=V …",
                help="Set variables of the spec's env block; takes several, and may be given again."),
    click.option("--lenient", "is_lenient", is_flag=True,
                 help="Warn of unknown keys, and of more or fewer columns than labels, instead of refusing them."),
    click.option("--pgen", "generator", metavar="FILE", type=click.Path(),
                 help="Python file with get_custom_generator(env, **kwargs), which gives the parameters."),
    many_values("--pargs", "arguments", separator=":", metavar="K:V …",
                help="Arguments of the function in --pgen's FILE; takes several."),
)  # fmt: skip
#: Of every command that queues a spec, or says what would be queued.
spec_options = grouped(
    click.argument("spec", metavar="SPEC", type=click.Path()), output_path_option, samples_file_option, order_options
)
#: When it is the study's turn.
turn_options = grouped(
    click.option("--priority", type=click.IntRange(-1000, 1000), metavar="N", default=0, show_default=True,
                 help="Samples of studies with a higher N (-1000 to 1000) are claimed first."),
    click.option("--after", metavar="STUDY", help="Begin when this study has ended, however it ended; at once if it "
                 "has. [default: at once]"),
)  # fmt: skip
