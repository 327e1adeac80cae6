"""Links, commands, code, file names and make targets in the documents are valid."""

import contextlib
import io
import re
import runpy
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from candlewick.cli.main import VERBS, build_parser, main

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").glob("*.md")])
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)#]+)(?:#[^)]*)?\)")


def commands() -> Iterator[tuple[str, str]]:
    """Yield (page, command line) of every candlewick command in a shell block."""
    for page in PAGES:
        for language, block in _FENCE.findall(page.read_text(encoding="utf-8")):
            if language in ("sh", "bash"):
                for line in block.replace("\\\n", " ").splitlines():
                    if line.strip().startswith("candlewick "):
                        yield page.relative_to(ROOT).as_posix(), line.strip()


@pytest.mark.parametrize(("page", "command"), list(commands()))
def test_every_command_in_the_documents_parses(page: str, command: str):
    words = shlex.split(command, comments=True)[1:]
    verb = next((word for word in words if not word.startswith("-")), None)
    try:
        build_parser(verb).parse_args(words)
    except SystemExit as stop:
        if stop.code:
            pytest.fail(f"{page}: `{command}` is no command")


@pytest.mark.parametrize("page", ["docs/rope.md"])
def test_python_of_a_page_prints_the_output_shown_below(page: str):
    blocks = _FENCE.findall((ROOT / page).read_text(encoding="utf-8"))
    names: dict[str, object] = {}
    shown = 0
    for (language, block), below in zip(blocks, [*blocks[1:], ("", "")], strict=True):
        if language == "python":
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                exec(compile(block, page, "exec"), names)  # the blocks of a page go on from each other
            assert below == ("text", printed.getvalue())
            shown += 1
    assert shown == 4


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_to_a_file(page: Path):
    targets = [t for t in _LINK.findall(page.read_text(encoding="utf-8")) if "://" not in t]
    broken = [target for target in targets if not (page.parent / target).exists()]
    assert not broken, f"{page.relative_to(ROOT).as_posix()} links to {', '.join(broken)}"


def test_every_verb_is_in_the_readme():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    missing = [verb for verb in VERBS if f"candlewick {verb}" not in readme and f"`{verb}`" not in readme]
    assert not missing, f"README.md does not name the verbs {', '.join(missing)}"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]):
    assert main([verb, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"usage: candlewick {verb}")


def test_every_make_target_of_the_documents_exists():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {
        target
        for page in PAGES
        for target in re.findall(r"(?:^|`)make ([a-z]+)", page.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert named <= targets, f"no such targets: {', '.join(sorted(named - targets))}"


def test_every_file_named_in_a_page_exists():
    missing = [
        f"{page.relative_to(ROOT).as_posix()}: {name}"
        for page in PAGES
        for name in re.findall(r"`([\w./]+\.py|configs/|optim/)`", page.read_text(encoding="utf-8"))
        if not any((folder / name).exists() for folder in (ROOT, ROOT / "src" / "candlewick", page.parent))
    ]
    assert not missing, "pages name files that do not exist:\n  " + "\n  ".join(missing)


def test_every_page_named_in_the_code_exists():
    named = {
        name
        for path in [*(ROOT / "src").rglob("*.py"), *(ROOT / "src").rglob("*.yaml")]
        for name in re.findall(r"docs/[\w/-]+\.md", path.read_text(encoding="utf-8"))
    }
    missing = sorted(name for name in named if not (ROOT / name).exists())
    assert not missing, f"docstrings name pages that do not exist: {', '.join(missing)}"


def test_pre_commit_hooks_equal_the_recipe_of_make_check():
    recipe = re.search(r"^check: .*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert recipe is not None
    commands = recipe[1].replace("$(BIN)", ".venv/bin").split("\n\t")
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    assert [hook["entry"] for hook in local["hooks"]] == [command.strip() for command in commands]
    assert all((hook["language"], hook["pass_filenames"]) == ("system", False) for hook in local["hooks"])


def test_generated_pages_are_up_to_date(monkeypatch, capsys):
    generate = runpy.run_path(str(ROOT / "docs" / "generate.py"))
    monkeypatch.setattr("sys.argv", ["generate.py", "--check"])
    assert generate["main"]() == 0, capsys.readouterr()
