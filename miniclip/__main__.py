"""`python -m miniclip`, the same as the command `miniclip`."""

import sys

from miniclip.stop_signals import stop_signals


def main() -> None:
    """The `miniclip` command."""
    if sys.argv[1:2] == ["train"]:
        stop_signals.take_over()  # before imports that take long
    from miniclip.cli import main as run_command

    run_command()


if __name__ == "__main__":
    main()
