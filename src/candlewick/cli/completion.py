"""`candlewick completion`: a script that completes verbs, options, profiles and keys, for bash, zsh or fish.

    bash    eval "$(candlewick completion bash)"      in ~/.bashrc
    zsh     eval "$(candlewick completion zsh)"       in ~/.zshrc, after compinit
    fish    candlewick completion fish > ~/.config/fish/completions/candlewick.fish

Everything is read from the argument parsers once and written into the script, so that completing starts no Python.
Where the script knows no words, the shell completes files.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from shlex import quote

_BASH = """
_candlewick() {
  local command word
  command="$(_candlewick_command "${COMP_WORDS[@]:1:COMP_CWORD-1}")"
  COMPREPLY=()
  while read -r word; do
    [[ $word == "${COMP_WORDS[COMP_CWORD]}"* ]] && COMPREPLY+=("$word")
  done < <(_candlewick_words "$command" "${COMP_WORDS[COMP_CWORD-1]}")
  [[ ${COMPREPLY[0]} == *= ]] && compopt -o nospace 2> /dev/null
  return 0
}
complete -o default -F _candlewick candlewick"""
_ZSH = """
_candlewick() {
  local command
  local -a found keys
  command="$(_candlewick_command "${(@)words[2,CURRENT-1]}")"
  found=(${(f)"$(_candlewick_words "$command" "${words[CURRENT-1]}")"})
  keys=(${(M)found:#*=})
  compadd -S '' -a keys
  found=(${found:#*=})
  compadd -a found
  (( compstate[nmatches] )) || _files
}
compdef _candlewick candlewick"""
_FISH = """function __candlewick_words
    string match -v -- '-*' (commandline -opc)
end
function __candlewick_at
    test (string join ' ' (__candlewick_words)) = "candlewick$argv"
end
function __candlewick_in
    string match -q -- "candlewick$argv *" (string join ' ' (__candlewick_words))' '
end"""


@dataclass(frozen=True, slots=True)
class Option:
    """One option of a command."""

    flags: tuple[str, ...]
    help: str
    takes_value: bool
    values: tuple[str, ...]
    """Words that the value can be; empty: anything."""


@dataclass(frozen=True, slots=True)
class Command:
    """The program, a verb or an action of one, with what can follow."""

    path: str
    """` data prepare`: each word with a space before it."""
    inner: dict[str, str]
    """Words that go on from here, with their help."""
    options: tuple[Option, ...]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), help="the shell that the script is for")


def run(args: argparse.Namespace) -> None:
    """Print the script."""
    found = list(commands())
    if args.shell == "fish":
        lines = [_FISH, *_fish_lines(found)]
    else:
        lines = [*_find_command(found), *_find_words(found), _BASH if args.shell == "bash" else _ZSH]
    sys.stdout.write("\n".join(lines) + "\n")


def commands() -> Iterator[Command]:
    """Yield the program itself, every verb, and every action of a verb."""
    from candlewick.cli.main import VERBS, build_parser

    yield Command("", VERBS, ())
    for verb in VERBS:
        yield from _commands(f" {verb}", _inner(build_parser(verb))[verb][0])


def _commands(path: str, parser: argparse.ArgumentParser) -> Iterator[Command]:
    inner = _inner(parser)
    options = [
        Option(tuple(action.option_strings), action.help or "", action.nargs != 0, _values(action))
        for action in parser._actions  # pyright: ignore[reportPrivateUsage] - argparse has no public way
        if action.option_strings
    ]
    yield Command(path, {name: text for name, (_, text) in inner.items()}, tuple(options))
    for name, (sub, _) in inner.items():
        yield from _commands(f"{path} {name}", sub)


def _inner(parser: argparse.ArgumentParser) -> dict[str, tuple[argparse.ArgumentParser, str]]:
    """Return the parsers of a parser's verbs or actions by name, with their help."""
    for action in parser._actions:  # pyright: ignore[reportPrivateUsage]
        if isinstance(action, argparse._SubParsersAction):  # pyright: ignore[reportPrivateUsage]
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}  # pyright: ignore[reportPrivateUsage]
            return {name: (sub, helps[name]) for name, sub in action.choices.items()}
    return {}


def _values(action: argparse.Action) -> tuple[str, ...]:
    from candlewick.config.load import profiles
    from candlewick.config.schema import groups, is_section

    if action.dest == "config":
        return tuple(profiles())
    if action.dest != "override":
        return tuple(map(str, action.choices or ()))
    keys = (
        f"{group.name}.{key}="
        for group in groups()
        for key, field in group.settings.items()
        if group.name and not is_section(field)
    )
    return tuple(sorted({key.replace("[]", "[0]") for key in keys}))


def _find_command(found: list[Command]) -> Iterator[str]:
    """For bash and zsh, a function: the words before the one to complete -> the command that they name."""
    yield '_candlewick_command() {\n  local word command=""\n  for word in "$@"; do\n    case "$command $word" in'
    for command in found:
        if command.inner:
            yield f'      {_patterns(command.path, command.inner)}) command="$command $word" ;;'
    yield "    esac\n  done\n  printf '%s' \"$command\"\n}"


def _find_words(found: list[Command]) -> Iterator[str]:
    """For bash and zsh, a function: a command and the word before -> the words that can come, one per line."""
    patterns: dict[tuple[str, ...], list[str]] = {}
    for command in found:
        for option in command.options:
            if option.takes_value:
                patterns.setdefault(option.values, []).append(_patterns(command.path, option.flags))
    yield "_candlewick_words() {\n  case \"$1 $2\" in\n    *' =') ;;"
    for values, places in patterns.items():
        yield f"    {'|'.join(places)}) {_print(values)} ;;"
    yield '    *) case "$1" in'
    for command in found:
        flags = [flag for option in command.options for flag in option.flags]
        yield f"      {quote(command.path)}) {_print([*command.inner, *flags])} ;;"
    yield "    esac ;;\n  esac\n}"


def _patterns(path: str, words: Iterable[str]) -> str:
    return "|".join(quote(f"{path} {word}") for word in words)


def _print(words: Sequence[str]) -> str:
    return f"printf '%s\\n' {' '.join(map(quote, words))}" if words else ""


def _fish_lines(found: list[Command]) -> Iterator[str]:
    for command in found:
        at, inside = (quote(f"__candlewick_{where} {quote(command.path)}") for where in ("at", "in"))
        for name, text in command.inner.items():
            yield f"complete -c candlewick -f -n {at} -a {name} -d {quote(text)}"
        for option in command.options:
            flags = " ".join(f"-{'l' if flag[1] == '-' else 's'} {flag.lstrip('-')}" for flag in option.flags)
            value = " -r" + (f" -a {quote(' '.join(option.values))}" if option.values else "")
            end = value if option.takes_value else ""
            yield f"complete -c candlewick -n {inside} {flags}{end} -d {quote(option.help)}"
