"""How much of what a model writes is made of the corpus's words, and how much of it Python can tokenize.

    python benchmarks/samples.py runs/demo

20 samples of the run's last checkpoint (temperature 0.8, top-k 40, seeds 0 to 19, no prompt). A word is a run of
three or more letters; it is known if it occurs in the training text. A sample passes Python's `tokenize` if no
TokenError, SyntaxError or error token comes up before its last line, which is cut where generation ended. The
demo's corpus is the standard library; name another with --text.
"""

import argparse
import io
import json
import re
import tokenize
from pathlib import Path
from typing import Any

import torch

from candlewick.checkpoint.load import load_for_inference
from candlewick.config import DataConfig, SampleConfig
from candlewick.data.text.find import open_text
from candlewick.generate.engine import sample_text

WORD = re.compile(r"[A-Za-z]{3,}")


def tokenizes(text: str) -> bool:
    """Whether Python's tokenizer reads all whole lines of `text`; what is open at the end is not an error."""
    lines = text.splitlines(keepends=True)
    whole = "".join(lines[:-1] or lines)
    try:
        for token in tokenize.generate_tokens(io.StringIO(whole).readline):
            if token.type == tokenize.ERRORTOKEN and not token.string.isspace():
                return False
    except tokenize.TokenError as error:
        return "EOF in multi-line" in str(error)
    except (SyntaxError, IndentationError):
        return False
    return True


def measure(run: Path, text: str, count: int, tokens: int) -> dict[str, Any]:
    """Sample `count` texts and score them."""
    corpus = open_text([text], DataConfig())
    known = {word for document in corpus.documents() for word in WORD.findall(document.text)}
    model, tokenizer = load_for_inference(run, torch.device("cpu"))
    settings = SampleConfig(max_new_tokens=tokens, temperature=0.8, top_k=40)
    samples = [sample_text(model, tokenizer, "", settings, seed=seed) for seed in range(count)]
    words = [word for sample in samples for word in WORD.findall(sample)]
    return {
        "samples": count,
        "words": len(words),
        "known_words_share": sum(word in known for word in words) / max(1, len(words)),
        "pass_tokenize": sum(map(tokenizes, samples)),
        "texts": samples,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--text", default="stdlib://")
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--show", action="store_true", help="print the samples too")
    args = parser.parse_args()
    result = measure(args.run, args.text, args.samples, args.tokens)
    texts = result.pop("texts")
    print(json.dumps(result, indent=1))
    if args.show:
        print(*texts, sep=f"\n{'-' * 40}\n")


if __name__ == "__main__":
    main()
