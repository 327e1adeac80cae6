"""The pytest plugin of a mutation campaign: it records which test runs which line, and runs chosen tests in order.

It is copied into the tree whose tests run, and imported by its file's name.
"""

import faulthandler
import json
import sys
import time
from pathlib import Path

import pytest
from coverage import Coverage
from hypothesis import Phase, settings


def pytest_addoption(parser):
    parser.addoption("--record", metavar="FILE", help="write each test's seconds and shared fixtures, as JSON")
    parser.addoption("--selection", metavar="FILE", help="JSON: tests in order, their time limits, whole files")
    parser.addoption("--progress", metavar="FILE", help="write which test begins and which fails, as JSON lines")


def pytest_configure(config):
    # the same examples each time, and none of the minutes that shrinking a failure takes
    phases = [Phase.explicit, Phase.generate]
    settings.register_profile("mutants", phases=phases, derandomize=True, database=None, deadline=None)
    settings.load_profile("mutants")
    if file := config.getoption("--record"):
        config.pluginmanager.register(Recorder(Path(file)))
    if file := config.getoption("--selection"):
        config.pluginmanager.register(Selection(Path(file), Path(config.getoption("--progress"))))


class Recorder:
    """It names coverage's context after the running test, or after the fixture of a wider scope that is set up.

    Several tests read what such a fixture has made: all of them see its lines, not only the test that came first.
    """

    def __init__(self, file: Path):
        self._file = file
        self._contexts = [""]
        self._fixtures: dict[str, float] = {}  # seconds of each shared fixture
        self._tests: dict[str, dict] = {}
        self._outside = 0.0  # seconds of this test that were a shared fixture's

    def _switch(self) -> None:
        if (measured := Coverage.current()) is not None:
            measured.switch_context(self._contexts[-1])

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item):
        known = item._fixtureinfo.name2fixturedefs
        used = [known[name][-1] for name in item.fixturenames if name in known]
        shared = [_name(fixture) for fixture in used if fixture.scope != "function"]
        self._tests[item.nodeid] = {"seconds": 0.0, "fixtures": shared, "outcome": "passed"}
        self._outside = 0.0
        self._contexts.append(item.nodeid)
        self._switch()
        try:
            return (yield)
        finally:
            self._contexts.pop()
            self._switch()
            self._tests[item.nodeid]["seconds"] -= self._outside

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef):
        if fixturedef.scope == "function":
            return (yield)
        began, before = time.perf_counter(), self._outside
        self._contexts.append(_name(fixturedef))
        self._switch()
        try:
            return (yield)
        finally:
            self._contexts.pop()
            self._switch()
            seconds = time.perf_counter() - began
            inner = self._outside - before  # fixtures that this one asked for while it was set up
            self._fixtures[_name(fixturedef)] = self._fixtures.get(_name(fixturedef), 0.0) + seconds - inner
            self._outside = before + seconds

    def pytest_runtest_logreport(self, report):
        test = self._tests[report.nodeid]
        test["seconds"] += report.duration
        if not report.passed:
            test["outcome"] = report.outcome

    def pytest_sessionfinish(self):
        self._file.write_text(json.dumps({"tests": self._tests, "fixtures": self._fixtures}))


def _name(fixturedef) -> str:
    return f"fixture {fixturedef.baseid}::{fixturedef.argname}"


class Selection:
    """It keeps the chosen tests, in their order, and ends the process when one takes longer than its limit."""

    def __init__(self, file: Path, progress: Path):
        self._chosen = json.loads(file.read_text())
        self._progress = progress

    def _note(self, event: str, name: str) -> None:
        with self._progress.open("a") as file:
            file.write(json.dumps([event, name]) + "\n")

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items):
        order = {name: place for place, name in enumerate(self._chosen["order"])}
        whole = set(self._chosen["whole_files"])
        kept = [item for item in items if item.nodeid in order or item.nodeid.partition("::")[0] in whole]
        kept = [item for item in kept if item.nodeid not in self._chosen["left_out"]]
        items[:] = sorted(kept, key=lambda item: order.get(item.nodeid, len(order)))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item):
        self._note("began", item.nodeid)
        limit = self._chosen["limits"].get(item.nodeid, self._chosen["default_limit"])
        faulthandler.dump_traceback_later(limit, exit=True, file=sys.__stderr__ or 2)
        try:
            return (yield)
        finally:
            faulthandler.cancel_dump_traceback_later()

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self._note("failed", report.nodeid)

    pytest_collectreport = pytest_runtest_logreport
