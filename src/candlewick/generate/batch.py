"""Generate many texts: jobs whose prompts have the same length are the rows of one batch.

    jobs  [5 tokens] [3] [5] [5] [3]   ->   batches  3: (1, 4)   5: (0, 2, 3)

Every row has its own seed, so a text does not depend on the other jobs, up to the rounding of larger products.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from candlewick.config import SampleConfig
from candlewick.generate.engine import Engine, make_text_stream
from candlewick.tokenizer.bpe import Tokenizer


@dataclass(frozen=True, slots=True)
class Job:
    """A prompt of ids, and the random seed of the text after it."""

    ids: Sequence[int]
    seed: int


def generate_texts(
    engine: Engine, tokenizer: Tokenizer, jobs: Sequence[Job], config: SampleConfig, alternatives: int | None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the index of each job and its result, in the order in which batches end.

    A result has `text`, `seed`, `num_tokens`, `stop` (a StopReason), and with a draft model `acceptance_rate`.
    With a number of `alternatives` it also has `tokens`: each token, and the likeliest at its position, with their
    log-probabilities in nats before penalty, temperature and truncation. Raises ConfigError, before the first
    text, for a prompt that is empty or longer than the model's context.
    """
    by_length: dict[int, list[int]] = {}
    for index, job in enumerate(jobs):
        engine.validate_prompt(job.ids)
        by_length.setdefault(len(job.ids), []).append(index)
    for _, indices in sorted(by_length.items()):
        for start in range(0, len(indices), engine.max_rows):
            rows = indices[start : start + engine.max_rows]
            results = _generate_batch(engine, tokenizer, [jobs[i] for i in rows], config, alternatives)
            yield from zip(rows, results, strict=True)


def _generate_batch(
    engine: Engine, tokenizer: Tokenizer, jobs: Sequence[Job], config: SampleConfig, alternatives: int | None
) -> list[dict[str, Any]]:
    texts = [make_text_stream(tokenizer, config) for _ in jobs]
    results: list[dict[str, Any]] = [{"text": "", "seed": job.seed, "num_tokens": 0} for job in jobs]
    with closing(engine.steps([job.ids for job in jobs], config, [job.seed for job in jobs])) as steps:
        for step in steps:
            for row, (text, result) in enumerate(zip(texts, results, strict=True)):
                if not text.stop:
                    result["num_tokens"] += 1
                    result["text"] += text.push(step.ids[row])
                    if alternatives is not None:
                        scores = _token_scores(step.logits[row], step.ids[row], alternatives, tokenizer)
                        result.setdefault("tokens", []).append(scores)
            if all(text.stop for text in texts):
                break
    for text, result in zip(texts, results, strict=True):
        result["text"] += "" if text.stop else text.flush()
        result["stop"] = text.stop or engine.stop_at(result["num_tokens"], config)
        if engine.acceptance_rate is not None:
            result["acceptance_rate"] = engine.acceptance_rate
    return results


def _token_scores(logits: Tensor, token: int, alternatives: int, tokenizer: Tokenizer) -> dict[str, Any]:
    scores = logits.float().log_softmax(dim=-1).cpu()

    def entry(number: int) -> dict[str, Any]:
        text = tokenizer.decode([number], skip_special=False)
        return {"id": number, "text": text, "logprob": scores[number].item()}

    likeliest = scores.topk(min(alternatives, len(scores))).indices.tolist()
    return entry(token) | {"top": [entry(number) for number in likeliest]}
