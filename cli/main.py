"""`mrun`: finds the command, and turns whatever goes wrong into one message and the documented exit code."""

from __future__ import annotations

import gc
import importlib
import os
import signal
import sys
from collections.abc import Sequence

import click
from click.shell_completion import CompletionItem, shell_complete

from mrun.cli.options import common_options
from mrun.cli.output import Output
from mrun.engine.errors import ExitCode, MrunError, UsageError, our_error
from mrun.engine.nearest import nearest_hint

#: Command → its one-line help. A module is imported when its command is used, so that `mrun --help` is quick.
COMMANDS = {
    "run": "Queue a study, work on it, and wait for its results.",
    "queue": "Queue a study, for workers to run.",
    "submit": "Queue a command as a study, without a YAML.",
    "check": "Tell what is wrong with a spec, or what it would become.",
    "work": "Run samples from queues until told to stop.",
    "alloc": "Keep batch jobs queued while there is work for them.",
    "status": "Show how far studies are.",
    "logs": "Print what samples printed.",
    "extract": "Write what samples printed into files.",
    "inspect": "Show queues and workers.",
    "wait": "Wait for the end of a study.",
    "cancel": "Stop a study.",
    "hold": "Claim nothing more of a study until it is released.",
    "release": "Let a study that was held go on.",
    "priority": "Set which study's samples are claimed first.",
    "restart": "Run what did not finish of a study, in its workspace.",
    "retry": "Run a selection of samples again, and what depends on them.",
    "add": "Add samples to a study that runs, or has ended.",
    "stop": "Ask workers to finish what they run and exit.",
    "forget": "Remove studies that have ended from the server.",
    "purge": "Remove studies from the server.",
    "server": "Start, show or stop your own server.",
    "example": "List the examples, or copy one of them.",
}
#: Set by the script for a shell's completion: what the shell asks. `_MRUN_COMPLETE=bash_source mrun` prints the script.
_COMPLETE_VARIABLE = "_MRUN_COMPLETE"


class LazyGroup(click.Group):
    """The verbs. Each is `command` of the module of its name in this package."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which a study's life uses them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command; None if there is no such verb."""
        if cmd_name not in COMMANDS:
            return None
        # What an import makes stays until the end. Looking for garbage in it, now and then once more when the process
        # ends, takes a sixth of what a short command takes.
        gc.disable()
        try:
            command = importlib.import_module(f"mrun.cli.commands.{cmd_name}").command
        finally:
            gc.freeze()
            gc.enable()
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does; for a word that is no verb, with the nearest one."""
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            hint = (
                nearest_hint(args[0], COMMANDS, lists_known=False) or f"{ctx.command_path} --help lists the commands."
            )
            raise UsageError(f"There is no command '{args[0]}'.", hint=hint)
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The verbs and options that begin so, without importing a verb."""
        found = [CompletionItem(verb, help=text) for verb, text in COMMANDS.items() if verb.startswith(incomplete)]
        return found + click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.command(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    invoke_without_command=False,
)
@common_options
@click.version_option(package_name="mrun", prog_name="mrun")
def cli() -> None:
    """Run ensembles of simulations: one YAML file, any number of workers.

    \b
    Examples:
      $ mrun run spec.yaml                     # queue it, run it here, wait for it
      $ mrun queue spec.yaml                   # only queue it …
      $ mrun work --queues sim,train           # … and run it from any shell or batch job
      $ mrun status
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point of the `mrun` command. Ends the process."""
    _mend_start()
    if instruction := os.environ.get(_COMPLETE_VARIABLE):
        sys.exit(shell_complete(cli, {}, "mrun", _COMPLETE_VARIABLE, instruction))
    words = list(sys.argv[1:] if arguments is None else arguments)
    output = Output(is_json="--json" in words, is_quiet=False)
    try:
        _check_characters(words)
        # Not `cli.main`: it would answer a broken pipe with exit code 1.
        with cli.make_context("mrun", words) as context:
            code = cli.invoke(context)
    except click.exceptions.Exit as end:
        code = end.exit_code
    except click.exceptions.Abort:
        code = ExitCode.INTERRUPTED
    except click.ClickException as error:
        code = _show_usage(output, error)
    except MrunError as error:
        output.error(error)
        code = error.exit_code
    except KeyboardInterrupt:
        code = ExitCode.INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone: `mrun status | head`. Python would complain again when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = ExitCode.DONE
    except Exception as error:  # noqa: BLE001 - the last door: a bug becomes a message and exit code 1, never silence
        code = _show_rest(output, error)
    sys.exit(int(code or 0))


def _mend_start() -> None:
    """Whoever started this may have ignored SIGCHLD or closed streams, as daemons do; both come down to here."""
    # The kernel would reap our children by itself, and nobody would learn how they ended.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # The lowest number is free: so no connection gets it, and a child may write to it.
            fd = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(fd, True)
            setattr(sys, name, os.fdopen(fd, mode, encoding="utf-8"))


def _check_characters(words: Sequence[str]) -> None:
    """Names and paths go to the server and into the workspace as UTF-8; what stands behind `--` is not ours."""
    for word in words[: words.index("--") if "--" in words else None]:
        if any("\ud800" <= one <= "\udfff" for one in word):
            raise UsageError(f"{word!r} holds bytes that are no UTF-8.", hint="Rename it, or go there by another path.")


def _show_rest(output: Output, error: Exception) -> int:
    """Task groups wrap what goes wrong in them: one of ours in there is what the user is to know."""
    ours = our_error(error)
    if ours is None:
        output.bug(error)
        return int(ExitCode.BUG)
    output.error(ours)
    return int(ours.exit_code)


def _show_usage(output: Output, error: click.ClickException) -> int:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return int(ExitCode.USAGE)
    context = error.ctx if isinstance(error, click.UsageError) else None
    name = context.command_path if context else "mrun"
    output.error(UsageError(f"{error.format_message()}", hint=f"{name} --help shows how it is used"))
    return int(ExitCode.USAGE)
