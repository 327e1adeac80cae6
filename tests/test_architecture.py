"""Limits on the structure of the code: sizes, mirrored tests, fast start, access to the environment.

The order of the layers is import-linter's (`make check`), arguments and complexity are ruff's. A number here is
raised in a commit of its own, with the reason.
"""

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests import rooms

from candlewick.cli.main import VERBS

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "candlewick"
UNIT_TESTS = ROOT / "tests" / "unit"
MODULES = sorted(PACKAGE.rglob("*.py"))

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 59
MAX_BUILD_LINES = 160
MAX_ROOMS = 20
MAX_ARROWS = 80
MAX_CODE_LINES = 18_400  # docs/decisions/0005-size.md
READS_ENVIRONMENT = {"parallel/env.py", "cli/environment.py"}
GROWTH_SITES = re.compile(r"(utils?|common|helpers?|misc|base|manager|core)$")


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def num_lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def num_code_lines(path: Path) -> int:
    """Count the lines that hold code: no blank ones, comments or docstrings."""
    source = path.read_text(encoding="utf-8")
    skipped = {
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
    }
    code: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in skipped:
            code |= set(range(token.start[0], token.end[0] + 1))
    for node in nodes(path):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            code -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(code)


def nodes(path: Path) -> Iterator[ast.AST]:
    return ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path)))


def report(problems: list[str], rule: str) -> None:
    """Fail with one line per offender."""
    assert not problems, f"{rule}:\n  " + "\n  ".join(problems)


def test_source_files_are_within_the_line_limit():
    files = [*MODULES, *sorted((ROOT / "tests").rglob("*.py"))]
    long = [f"{p.relative_to(ROOT)}: {n} lines" for p in files if (n := num_lines(p)) > MAX_FILE_LINES]
    report(long, f"a file has at most {MAX_FILE_LINES} lines; split it by noun")


def test_functions_are_within_the_line_limit():
    long = [
        f"{name_of(path)}:{node.lineno} {node.name}: {length} lines"
        for path in MODULES
        for node in nodes(path)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or 0) - node.lineno + 1) > MAX_FUNCTION_LINES
    ]
    report(long, f"a function has at most {MAX_FUNCTION_LINES} lines")


def test_package_is_within_its_budget_of_code_lines():
    total = sum(map(num_code_lines, MODULES))
    assert total < MAX_CODE_LINES, f"the package has {total} lines of code, its budget is {MAX_CODE_LINES}"


def test_build_module_is_within_its_line_limit():
    """What is decided is in the plan: who adds a decision here has the wrong file."""
    assert num_lines(PACKAGE / "train" / "build.py") <= MAX_BUILD_LINES


def test_packages_and_their_imports_are_few_and_acyclic():
    """`python tests/rooms.py` names the arrows."""
    assert (len(rooms.rooms()) <= MAX_ROOMS, len(rooms.arrows()) <= MAX_ARROWS, rooms.circle()) == (True, True, [])


def test_every_module_has_its_unit_tests():
    missing = [
        f"{name_of(path)} wants {expected.relative_to(ROOT).as_posix()}"
        for path in MODULES
        if path.name not in ("__init__.py", "__main__.py")
        and not (expected := UNIT_TESTS / Path(name_of(path)).parent / f"test_{path.name}").is_file()
    ]
    report(missing, "tests/unit mirrors src/candlewick one to one")


def test_every_unit_test_has_its_module():
    orphans = [
        path.relative_to(ROOT).as_posix()
        for path in sorted(UNIT_TESTS.rglob("test_*.py"))
        if not (PACKAGE / path.relative_to(UNIT_TESTS).parent / path.name.removeprefix("test_")).is_file()
    ]
    report(orphans, "these unit tests mirror no module of src/candlewick")


def test_no_file_is_named_utils_common_or_helpers():
    named = [name_of(p) for p in (*MODULES, *PACKAGE.rglob("*/")) if GROWTH_SITES.fullmatch(p.stem)]
    report(named, "a function lives with its noun; these names collect everything")


def test_environment_is_read_in_two_files_only():
    readers = [
        f"{name_of(path)}:{node.lineno}"
        for path in MODULES
        if name_of(path) not in READS_ENVIRONMENT
        for node in nodes(path)
        if (isinstance(node, ast.Attribute) and node.attr in ("environ", "environb", "getenv"))
        or (isinstance(node, ast.ImportFrom) and node.module == "os" and {"environ", "getenv"} & names(node))
    ]
    report(readers, f"only {', '.join(sorted(READS_ENVIRONMENT))} read the environment")


def names(node: ast.ImportFrom) -> set[str]:
    return {alias.name for alias in node.names}


def test_only_replaced_copies_a_section():
    """`model_copy(update=...)` validates nothing: a frozen, strict tree would accept what no file may say."""
    copies = [
        f"{name_of(path)}:{number}"
        for path in MODULES
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if "model_copy" in line and name_of(path) != "config/section.py"
    ]
    report(copies, "settings are changed by Section.replaced, which validates")


def test_every_module_has_a_docstring():
    silent = [
        name_of(path) for path in MODULES if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    report(silent, "a module begins with a docstring that teaches it")


def test_no_comment_marks_unfinished_work():
    marks = re.compile("#.*\\b(TO" + "DO|FIX" + "ME|XX" + "X)\\b")
    left = [
        f"{path.relative_to(ROOT).as_posix()}:{number}"
        for path in [*MODULES, *(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if marks.search(line)
    ]
    report(left, "an intention belongs into an issue")


def test_no_file_names_this_machine():
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listing.returncode:
        pytest.skip("not a git checkout")
    machine = re.compile(
        rb"|".join(re.escape(str(path).encode()) + rb"/\w" for path in (ROOT, Path.home()) if len(path.parts) > 1)
    )
    naming = [
        name.decode()
        for name in listing.stdout.split(b"\0")
        if name and (ROOT / name.decode()).is_file() and machine.search((ROOT / name.decode()).read_bytes())
    ]
    report(naming, "a tracked file names a folder of this machine")


def modules_after(code: str) -> set[str]:
    """Run code in a fresh interpreter and return the names of the modules that it has loaded."""
    code = f"import sys\n{code}\nsys.stderr.write('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return set(done.stderr.split())


@pytest.mark.parametrize(
    ("verbs", "needed"),
    # some have settings as flags
    [(["", *(set(VERBS) - {"demo", "orchestrate", "train"})], set()), (["orchestrate", "train"], {"pydantic"})],
)
def test_help_starts_without_any_heavy_package(verbs, needed):
    helps = "\n".join(f"assert main({[*verb.split(), '--help']!r}) == 0" for verb in verbs)
    loaded = modules_after(f"from candlewick.cli.main import main\n{helps}")
    heavy = {"torch", "numpy", "pydantic", "pyarrow", "tokenizers", "rich", "yaml"} & loaded
    assert heavy == needed, f"--help imports {', '.join(sorted(heavy))}: import inside run() instead"


@pytest.mark.parametrize(
    "module",
    [
        "config.load",
        "artifacts.build",
        "tokenizer.train",
        "data.text.corpus",
        "data.tokens.prepare",
        "data.tokens.dataset",
    ],
)
def test_modules_of_worker_processes_import_no_torch(module: str):
    assert "torch" not in modules_after(f"import candlewick.{module}"), f"candlewick.{module} imports torch"


def test_no_test_reads_a_clock():
    clock = re.compile(r"\b(monotonic|perf_counter|process_time)\(\)|\btime\.time\(")
    reading = [
        path.relative_to(ROOT).as_posix()
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        if path != Path(__file__) and clock.search(path.read_text(encoding="utf-8"))
    ]
    report(reading, "a test counts or waits for an event (tests/waiting.py); timings are benchmarks")


def test_files_that_are_parsed_whole_are_read_with_a_bound():
    """`json.loads(path.read_bytes())` of a stranger's folder could take all memory, or wait for a pipe."""
    unbounded = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).endswith(("json.loads", "safe_load", "validate_json"))
        and any(part in ast.unparse(node.args[0]) for part in (".read_bytes(", ".read_text("))
    ]
    report(unbounded, "read_bounded of artifacts/manifest.py reads a file that is parsed")
