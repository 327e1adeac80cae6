"""`candlewick completion`: a script that completes verbs, options, paths, profiles and keys in a shell.

`shtab` writes it from the argument parsers, so that completing starts no Python.
"""

import argparse
import sys
from pathlib import Path

import shtab

_INSTALL = """\
how to install it:
  bash        eval "$(candlewick completion bash)"      in ~/.bashrc
  zsh         eval "$(candlewick completion zsh)"       in ~/.zshrc, after compinit
  fish        candlewick completion fish > ~/.config/fish/completions/candlewick.fish
  tcsh        candlewick completion tcsh > ~/.candlewick.tcsh, and `source ~/.candlewick.tcsh` in ~/.tcshrc
  powershell  candlewick completion powershell > candlewick.ps1, and `. PATH/candlewick.ps1` in $PROFILE
"""
_PATHS = {"CHECKPOINT", "DATASET", "FILE", "FIRST", "PATH", "RUN", "SECOND", "SOURCE", "TEXT"}
_FUNCTIONS = {  # what shtab has no word for: words beside files, and keys that no space follows
    "bash": """\
_candlewick_keys() { compgen -W '{keys}' -- "$1"; }
_candlewick_profiles_or_files() { compgen -W '{profiles}' -- "$1"; compgen -f -- "$1"; }""",
    "zsh": """\
_candlewick_keys() { noglob compadd -S '' -- {keys} }
_candlewick_profiles_or_files() { compadd -- {profiles}; _files }""",
}
_BASH_END = """
_candlewick() {
  _shtab_candlewick
  [[ ${COMPREPLY[0]} == *= ]] && compopt -o nospace 2> /dev/null
  return 0
}
complete -o bashdefault -o default -F _candlewick candlewick
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _INSTALL
    parser.add_argument("shell", choices=shtab.SUPPORTED_SHELLS, help="shell to complete commands in")


def run(args: argparse.Namespace) -> None:
    """Print the script."""
    from candlewick.cli.main import VERBS, build_parser
    from candlewick.config.profiles import profiles
    from candlewick.config.schema import is_section, sections

    settings = ((g.name, key) for g in sections() for key, f in g.settings.items() if g.name and not is_section(f))
    keys = " ".join(sorted(f"{name}.{key}=".replace("[]", "[0]") for name, key in settings))
    names = " ".join(profiles())
    functions = _FUNCTIONS.get(args.shell, "").replace("{keys}", keys).replace("{profiles}", names)
    parser = build_parser(*VERBS)
    _add_values(parser, keys, names)
    script = shtab.complete(parser, args.shell, preamble=functions)
    sys.stdout.write(f"{script}\n{_BASH_END if args.shell == 'bash' else ''}")


def _add_values(parser: argparse.ArgumentParser, keys: str, profiles: str) -> None:
    """Say of every argument that takes a path, a profile or a key what completes it."""
    for action in parser._actions:  # pyright: ignore[reportPrivateUsage] - argparse has no public way
        complete = None
        if isinstance(action, argparse._SubParsersAction):  # pyright: ignore[reportPrivateUsage]
            for sub in action.choices.values():
                _add_values(sub, keys, profiles)
        elif action.dest == "config":
            function, words = "_candlewick_profiles_or_files", f"{profiles} {shtab.FILE['fish']}"
            complete = {**shtab.FILE, "bash": function, "zsh": function, "fish": words}
        elif action.dest == "override":
            complete = {"bash": "_candlewick_keys", "zsh": "_candlewick_keys", "fish": keys, "tcsh": f"({keys})"}
        elif action.metavar == "DIR":
            complete = shtab.DIRECTORY
        elif action.type is Path or action.metavar in _PATHS:
            complete = shtab.FILE
        if complete is not None:
            action.complete = complete  # pyright: ignore[reportAttributeAccessIssue]
