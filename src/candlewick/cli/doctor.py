"""`candlewick doctor`: check this machine, and show what a run on it would use.

The exit code is 4 when something is broken, else 0. See `Finding.status`.
"""

import argparse
from dataclasses import asdict

from candlewick.cli.arguments import add_json
from candlewick.cli.environment import cache_home
from candlewick.cli.output import emit_json
from candlewick.errors import MachineError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Examine the machine and print the findings. Raises MachineError when something is broken."""
    from candlewick.runs.report.doctor import examine

    findings = list(examine(cache_home()))
    broken = [finding.name for finding in findings if finding.status == "broken"]
    if not emit_json(args, {"ok": not broken, "findings": [asdict(finding) for finding in findings]}):
        width = max(len(finding.name) for finding in findings)
        for finding in findings:
            print(f"{finding.status:<6}  {finding.name:<{width}}  {finding.value}")
            if finding.fix:
                print(f"{'':<6}  {'':<{width}}  fix: {finding.fix}")
    if broken:
        raise MachineError(f"training cannot work here: {', '.join(broken)}", "see the lines marked broken")
