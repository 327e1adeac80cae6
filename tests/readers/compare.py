"""Compare what a reader found in a checkpoint folder with what this package computes.

Greedy tokens are compared up to the first step at which the two largest logits are at most 1e-3 apart: from there
on rounding may choose another token, and everything after it. A text that ends must end with the same token.
"""

from dataclasses import dataclass
from typing import Any

MARGIN = 1e-3
TOLERANCE = 1e-5
"""The largest relative difference of a loss."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was compared: the reader's class, equal and comparable greedy tokens, losses, tensors after a step."""

    reader_class: str
    num_equal: int
    num_compared: int
    loss_error: float
    changed_tensors: list[int] | None
    problems: tuple[str, ...]

    def __str__(self) -> str:
        parts = [self.reader_class] if self.reader_class else []
        if self.num_compared:
            parts.append(f"{self.num_equal} of {self.num_compared} greedy tokens equal")
        parts.append(f"losses within {self.loss_error:.0e}")
        if self.changed_tensors:
            parts.append("a step changes {} of {} tensors".format(*self.changed_tensors))
        return ", ".join([*parts, *self.problems])


def comparable(prompt: dict[str, Any]) -> int:
    """Return the number of greedy tokens before the first that rounding could change."""
    return next((i for i, margin in enumerate(prompt["margins"]) if margin <= MARGIN), len(prompt["tokens"]))


def compare(case: dict[str, Any], result: dict[str, Any]) -> Comparison:
    """Compare a reader's result for a model with the case of the model in cases.json."""
    problems: list[str] = []
    num_equal = num_compared = 0
    for number, (prompt, tokens) in enumerate(zip(case["prompts"], result.get("tokens", ()), strict=False)):
        count = comparable(prompt)
        expected = prompt["tokens"][:count]
        pairs = zip(expected, tokens, strict=False)
        equal = next((i for i, (ours, theirs) in enumerate(pairs) if ours != theirs), min(count, len(tokens)))
        num_equal, num_compared = num_equal + equal, num_compared + count
        is_whole = count == len(prompt["tokens"])
        if equal < count or (is_whole and len(tokens) != count):
            problems.append(f"prompt {number}: {equal} of {count} tokens equal, {len(tokens)} written")
    if "tokens" in result and len(result["tokens"]) != len(case["prompts"]):
        problems.append(f"{len(result['tokens'])} of {len(case['prompts'])} prompts continued")
    errors = [0.0]
    for name, loss in result["losses"].items():
        expected = case["eval"]["loss"] if name == "eval" else case["losses"][name]["loss_of_all_rows"]
        errors.append(abs(loss - expected) / expected)
        if not errors[-1] <= TOLERANCE:
            problems.append(f"{name}: loss {loss:.7f}, ours {expected:.7f}")
    problems += _compare_ids(case, result)
    changed = result.get("changed_tensors")
    if changed is not None and changed[0] != changed[1]:
        problems.append("a step leaves tensors as they were, or not finite")
    return Comparison(result.get("class", ""), num_equal, num_compared, max(errors), changed, tuple(problems))


def _compare_ids(case: dict[str, Any], result: dict[str, Any]) -> list[str]:
    """Return the texts of which a reader made other token ids."""
    expected = {"text": case["text_ids"]} | {name: text["ids"] for name, text in case["losses"].items()}
    found = [(name, result[f"{name}_ids"]) for name in ("text", "chat") if f"{name}_ids" in result]
    found += result.get("trained_ids", {}).items()
    return [f"{name}: other token ids" for name, ids in found if ids != expected[name]]
