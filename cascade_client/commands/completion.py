"""`cascade completion`: what a shell needs to complete the command's words."""

from collections.abc import Callable

import shtab

from cascade_client.console import CommandParser, Commands, Options, add_command

DETAILS = """\
The script is fixed: nothing of Cascade runs while you type.

examples:
  cascade completion bash > ~/.local/share/bash-completion/completions/cascade
  cascade completion zsh > ~/.zfunc/_cascade          (with ~/.zfunc in fpath)
  cascade completion fish > ~/.config/fish/completions/cascade.fish
"""


def add_commands(commands: Commands, whole: Callable[[], CommandParser]) -> None:
    """`whole`: the parser of all commands."""

    async def completion(options: Options) -> int:
        print(shtab.complete(whole(), options.shell))
        return 0

    parser = add_command(
        commands, "completion", completion, "print completions for your shell", DETAILS, "SHELL"
    )
    parser.add_argument(
        "shell",
        choices=shtab.SUPPORTED_SHELLS,
        metavar="SHELL",
        help=f"one of {', '.join(shtab.SUPPORTED_SHELLS)}",
    )
