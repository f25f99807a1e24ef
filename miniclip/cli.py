"""The command line: a table of commands, each a module in commands/."""

import argparse
import sys
from typing import Protocol

from miniclip import __version__
from miniclip.commands import (
    completion,
    doctor,
    embed,
    evaluate,
    export,
    report,
    search,
    serve,
    shard,
    text_study,
    train,
)
from miniclip.commands.console import (
    console,
    let_waiting_threads_sleep,
    one_line_errors,
    with_new_names,
)


class Command(Protocol):
    """A module whose docstring is the command's description, of which the first line is its help."""

    __doc__: str | None
    EXAMPLES: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare what is typed after the command."""

    def run(self, arguments: argparse.Namespace) -> None:
        """Do it; heavy imports wait until then."""


COMMANDS: dict[str, Command] = {
    "train": train,
    "evaluate": evaluate,
    "report": report,
    "export": export,
    "embed": embed,
    "search": search,
    "serve": serve,
    "doctor": doctor,
    "shard": shard,
    "text-study": text_study,
    "completion": completion,
}


def main() -> None:
    """The `miniclip` command."""
    let_waiting_threads_sleep()
    words = sys.argv[1:] or ["--help"]
    _refuse_unknown_command(words[0])

    if words[0] == "train":  # what follows, flags and --help, is parsed by Hydra
        train.run(argparse.Namespace(settings=words[1:]))
        return

    with console():
        words = with_new_names(words)
        arguments = _parser().parse_args(words)
        with one_line_errors(words[1:], vars(arguments)):
            COMMANDS[arguments.command].run(arguments)


def _refuse_unknown_command(name: str) -> None:
    if name in COMMANDS or name.startswith("-"):
        return
    if "=" in name:
        sys.exit(f"{name} is a setting, and needs a command before it: miniclip train {name}")
    sys.exit(f"miniclip has no command {name}; it has: {', '.join(COMMANDS)}")


def _parser() -> argparse.ArgumentParser:
    """What parses all commands, and prints their help."""
    parser = argparse.ArgumentParser(
        prog="miniclip",
        description="A lab bench for small-scale contrastive image-text learning.",
        epilog="miniclip COMMAND --help tells more of a command, with examples.",
    )
    parser.add_argument("--version", action="version", version=f"miniclip {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    for name, command in COMMANDS.items():
        description = command.__doc__ or ""
        command_parser = commands.add_parser(
            name,
            help=description.splitlines()[0],
            description=description,
            epilog=f"examples:\n{command.EXAMPLES}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command_parser.set_defaults(commands=list(COMMANDS))
        command.add_arguments(command_parser)
    return parser
