"""Mutation campaigns over a tiny package with weak and with strong tests."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from tests.mutants import campaign
from tests.mutants.campaign import EQUIVALENT, ROOT, choose, describe, read_equivalent, unit_test
from tests.mutants.coverage_map import CoverageMap, copy_tree, key_of
from tests.mutants.operators import mutations
from tests.waiting import wait_until

SOURCE = '''"""Prices."""

LIMIT = 3


def price(count, each):
    if count > LIMIT:
        return count * each - 1
    return count * each


def wait(count):
    while count > 0:
        count -= 1


def unseen():
    return 1
'''
WEAK = """
def test_price(shop):
    assert shop.price(0, 2) == 0
    assert shop.price(9, 2) > 10
"""
STRONG = """
def test_price(shop):
    assert [shop.price(count, 2) for count in (2, 3, 4)] == [4, 6, 7]


def test_wait(shop):
    shop.wait(2)
"""
CONFTEST = """
import pytest


@pytest.fixture(scope="session")
def shop():
    import toy.shop

    toy.shop.price(1, 1)
    return toy.shop
"""


@pytest.fixture
def checkout(tmp_path):
    """Make a checkout of the tiny package with these tests."""

    def make(tests: str):
        root = tmp_path / "checkout"
        for name, text in {
            "src/toy/__init__.py": "",
            "src/toy/shop.py": SOURCE,
            "tests/conftest.py": CONFTEST,
            "tests/unit/test_shop.py": tests,
            "tests/unit/test_other.py": "def test_nothing():\n    assert True\n",
        }.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        subprocess.run(["git", "init", "-q"], cwd=root, check=True)
        return root

    return make


def mutants(root, *texts: tuple[str, str]):
    """Return the mutants of the tiny package that change this text into that one."""
    every = {mutant.texts[1:]: mutant for mutant in choose(root, ["src/toy"], 1000, 0)}
    for change in mutations(SOURCE):
        mutant = campaign.Mutant("src/toy/shop.py", SOURCE, change)
        every[mutant.texts[1:]] = mutant
    return [every[text] for text in texts]


BOUNDARY = ("if count > LIMIT:", "if count >= LIMIT:")
PRODUCT = ("return count * each - 1", "return count + each - 1")
CONSTANT = ("LIMIT = 3", "LIMIT = 4")
UNSEEN = ("return 1", "return 2")
HANG = ("count -= 1", "pass")


def test_mutants_survive_weak_tests_and_die_of_strong_tests(checkout, tmp_path, monkeypatch, capsys):
    root = checkout(WEAK)
    chosen = mutants(root, BOUNDARY, PRODUCT, CONSTANT, UNSEEN)
    seen: list[CoverageMap] = []

    def make(tree):
        seen.append(CoverageMap.make(tree, tmp_path / "map"))
        return seen[-1]

    tried = campaign.campaign(root, chosen, make, {("src/toy/shop.py", *BOUNDARY)})
    assert [mutant.verdict for mutant in tried] == ["equivalent", "killed", "survived", "survived"]
    assert tried[1].test == "tests/unit/test_shop.py::test_price"
    assert "killed by tests/unit/test_shop.py::test_price: src/toy/shop.py:8" in capsys.readouterr().out
    assert describe(tried[2]).splitlines() == [
        "src/toy/shop.py:3 (constant)",
        "  - LIMIT = 3",
        "  + LIMIT = 4",
        "  tests that ran: tests/unit/test_shop.py (1)",
    ]

    (root / "tests/unit/test_shop.py").write_text(STRONG)
    monkeypatch.setattr(campaign, "MIN_LIMIT", 2.0)  # of the test that hangs
    tried = campaign.campaign(root, mutants(root, BOUNDARY, CONSTANT, HANG), make, set(), processes=1)
    assert [(mutant.verdict, mutant.test.partition("::")[2]) for mutant in tried] == [
        ("killed", "test_price"),
        ("killed", "test_price"),
        ("killed", "test_wait"),
    ]
    assert (root / "src/toy/shop.py").read_text() == SOURCE

    # what a shared fixture runs is seen by each of its tests; other tests see nothing
    tests = ["tests/unit/test_shop.py::test_price", "tests/unit/test_shop.py::test_wait"]
    assert sorted(seen[1].tests_of("src/toy/shop.py", range(9, 10))) == tests
    assert seen[1].tests_of("src/toy/shop.py", range(13, 14)) == tests[1:]
    assert seen[1].tests_of("src/toy/shop.py", range(18, 19)) == []


def test_test_that_fails_without_a_mutant_kills_no_mutant(checkout, tmp_path, capsys):
    root = checkout("import os\n\n\ndef test_once(shop):\n    assert shop.unseen()\n    os.mkdir('x')\n")
    tried = campaign.campaign(
        root, mutants(root, UNSEEN), lambda tree: CoverageMap.make(tree, tmp_path / "map"), set(), processes=1
    )
    assert [mutant.verdict for mutant in tried] == ["survived"]
    assert "test_once fails without a mutant too" in capsys.readouterr().out


def test_coverage_map_of_tests_that_did_not_run_is_refused(checkout, tmp_path):
    with pytest.raises(RuntimeError, match=r"the tests did not run: see .*log\.txt"):
        CoverageMap.make(checkout("import nothing_of_this_name\n"), tmp_path / "map")


def test_choice_of_lines_is_a_function_of_the_random_seed():
    folders = ["src/candlewick/optim", "src/candlewick/config"]
    first, again, other = (choose(ROOT, folders, 60, seed) for seed in (5, 5, 6))
    assert first == again != other
    assert len({(m.file, m.mutation.line(m.source)) for m in first}) == 60
    assert {m.file.split("/")[2] for m in first} == {"optim", "config"}


def test_key_of_a_coverage_map_depends_on_names_and_content(checkout):
    root = checkout(WEAK)
    keys = [key_of(root)]
    (root / "tests/unit/test_shop.py").write_text(STRONG)
    keys.append(key_of(root))
    (root / "tests/unit/test_shop.py").rename(root / "tests/unit/test_store.py")
    keys.append(key_of(root))
    (root / "README.md").write_text("not of the sources")
    keys.append(key_of(root))
    assert len(set(keys[:3])) == 3
    assert keys[2] == keys[3]


def test_unit_tests_of_a_module_mirror_its_path():
    assert unit_test("src/candlewick/data/rows/loader.py") == "tests/unit/data/rows/test_loader.py"
    assert unit_test("src/candlewick/hub.py") == "tests/unit/test_hub.py"


def test_equivalent_toml_lists_only_mutants_that_exist():
    stale = []
    for file, before, after in sorted(read_equivalent(EQUIVALENT)):
        source = (ROOT / file).read_text(encoding="utf-8") if (ROOT / file).is_file() else ""
        if not any((m.before(source), m.after(source)) == (before, after) for m in mutations(source)):
            stale.append(f"{file}: {before} -> {after}")
    assert not stale, "remove these from tests/mutants/equivalent.toml, or write them as they are now"


@pytest.mark.parametrize(("survivors", "code"), [(3, 0), (4, 1)])
def test_exit_code_is_1_when_more_than_3_of_60_survive(monkeypatch, capsys, survivors, code):
    def outcome(root, chosen, map_of, listed, processes):
        verdicts = ["survived"] * survivors + ["killed"] * (60 - survivors)
        return [campaign.replace(m, verdict=verdict) for m, verdict in zip(chosen, verdicts, strict=True)]

    monkeypatch.setattr(campaign, "campaign", outcome)
    monkeypatch.setattr(campaign, "PACKAGES", ("optim",))
    monkeypatch.setattr("sys.argv", ["campaign", "--seed", "3"])
    assert campaign.main() == code
    assert f"{60 - survivors} killed, {survivors} survived; --seed 3" in capsys.readouterr().out


def test_campaign_without_a_seed_prints_a_new_one(monkeypatch, capsys):
    monkeypatch.setattr(campaign, "campaign", lambda root, chosen, map_of, listed, processes: [])
    monkeypatch.setattr(campaign, "PACKAGES", ("optim",))
    monkeypatch.setattr("sys.argv", ["campaign", "--count", "1"])
    seeds = set()
    for _ in range(2):
        campaign.main()
        seeds.add(capsys.readouterr().out.splitlines()[0])
    assert len(seeds) == 2


SLOW = """
import os, time
from pathlib import Path

FOLDER = Path({folder!r})


def test_slow(shop):
    if shop.LIMIT == 4:
        (FOLDER / "killed").touch()
        raise AssertionError
    if shop.unseen() == 2 or (FOLDER / "killed").exists():
        (FOLDER / "told").write_text(str(os.getpid()))
        (FOLDER / "told").rename(FOLDER / "process")
        time.sleep(600)
"""
INTERRUPTED = """
import sys
from pathlib import Path

from tests.mutants import campaign, test_campaign

root, folder, name = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
campaign.end_on_signals()
chosen = test_campaign.mutants(root, getattr(test_campaign, name))
campaign.campaign(root, chosen, lambda tree: campaign.CoverageMap.make(tree, folder / "map"), set(), 1)
"""


def check_nothing_is_left(folder):
    assert not list(folder.glob("mutants-*"))
    with pytest.raises(ProcessLookupError):
        os.kill(int((folder / "process").read_text()), 0)


@pytest.mark.parametrize("slow", ["UNSEEN", "CONSTANT"])  # the mutant itself, or the last check of what killed it
def test_interrupted_campaign_leaves_no_process(slow, checkout, tmp_path):
    root = checkout(SLOW.format(folder=str(tmp_path)))
    # in the background of a shell SIGINT is ignored until a program asks for it
    command = ["sh", "-c", 'trap "" INT; exec "$@"', "sh", sys.executable, "-c", INTERRUPTED]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    with subprocess.Popen([*command, str(root), str(tmp_path), slow], env=environment) as process:
        wait_until((tmp_path / "process").exists, "the slow test")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) != 0
    check_nothing_is_left(tmp_path)


def test_campaign_that_is_interrupted_while_a_thread_starts_leaves_no_process(checkout, tmp_path, monkeypatch):
    root = checkout(SLOW.format(folder=str(tmp_path)))
    coverage = CoverageMap.make(copy_tree(root, tmp_path / "tree"), tmp_path / "map")
    start, kill = threading.Thread.start, os.killpg

    def interrupted_start(thread):
        start(thread)
        wait_until((tmp_path / "process").exists, "the slow test")
        raise KeyboardInterrupt

    def slow_kill(group, number):
        time.sleep(0.5)  # so that who does not wait for the thread is earlier
        kill(group, number)

    monkeypatch.setattr(threading.Thread, "start", interrupted_start)
    monkeypatch.setattr(os, "killpg", slow_kill)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        campaign.campaign(root, mutants(root, UNSEEN), lambda tree: coverage, set())
    check_nothing_is_left(tmp_path)
