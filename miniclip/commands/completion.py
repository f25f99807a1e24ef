"""Print a script by which a shell completes the commands of miniclip, and files after them.

Settings, after `python run.py`, are completed by Hydra's own script: python run.py --hydra-help.
"""

import argparse

EXAMPLES = """\
  eval "$(miniclip completion bash)"             # in ~/.bashrc
  eval "$(miniclip completion zsh)"              # in ~/.zshrc, after compinit
  miniclip completion fish | source              # in ~/.config/fish/config.fish
"""

SCRIPTS = {
    "bash": """\
_miniclip() {{
    if [ "$COMP_CWORD" -eq 1 ]; then
        COMPREPLY=($(compgen -W "{commands}" -- "${{COMP_WORDS[COMP_CWORD]}}"))
    fi
}}
complete -o default -F _miniclip miniclip
""",
    "zsh": """\
_miniclip() {{
    if (( CURRENT == 2 )); then
        compadd {commands}
    else
        _files
    fi
}}
compdef _miniclip miniclip
""",
    "fish": """\
complete -c miniclip -n __fish_use_subcommand -f -a "{commands}"
""",
}
"""Scripts by shell; a place for the names of the commands in each."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The shell."""
    parser.add_argument("shell", choices=SCRIPTS)


def run(arguments: argparse.Namespace) -> None:
    """Print the script; `arguments.commands` are all commands there are."""
    print(SCRIPTS[arguments.shell].format(commands=" ".join(arguments.commands)), end="")
