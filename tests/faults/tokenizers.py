"""The campaign over tokenizers of strangers: folders of hostile files are read, or refused in one line.

    python -m tests.faults.tokenizers --count 2000 --seed 0

A folder begins as a tokenizer like Llama 2's, Qwen's or transformer_candle's. One or two of its parts are changed:
steps that double a text or replace nothing, expressions that take exponential time, nested, huge and repeated
values, ids and names that cannot be, settings of another type, damaged bytes. The law: a process with 2 GiB of
memory loads it and encodes, decodes, writes and loads it again, or raises CandlewickError of one line. A process
that dies, or hangs for a minute, breaks the law.
"""

import faulthandler
import json
import logging
import random
import resource
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests import foreign
from tests.faults.campaign import Progress, Scenario, run_campaign

from candlewick.errors import CandlewickError
from candlewick.tokenizer.bpe import Tokenizer
from candlewick.tokenizer.encoder import make_encoder

MEMORY_BYTES = 2 << 30
HANG_SECONDS = 60
GOOD = ("read", "refused")
_MESSAGE_CHARS = 5000
_KINDS = ("candle", "candle_full", "qwen3", "llama3", "llama2", "llama2_metaspace")
_TEXTS = ["the of", "a" * 3000 + " " * 500, "\u00e9\u0130\ufdfa <pad>\x00 \n\t", " ".join(foreign.WORDS) * 100]
_SPLIT = {"type": "Split", "behavior": "Isolated", "invert": False}


class Hostility:
    """Changes a tokenizer in ways that a seed decides."""

    def __init__(self, seed: int) -> None:
        self.choose = random.Random(seed)

    def make(self, folder: Path) -> None:
        """Write the files of a tokenizer into a folder."""
        kind = self.choose.choice(_KINDS)
        foreign.write(kind, folder)
        file, config = folder / "tokenizer.json", folder / "tokenizer_config.json"
        tree = json.loads(file.read_bytes())
        for _ in range(self.choose.choice((1, 1, 1, 2))):
            with suppress(TypeError, KeyError, ValueError, AttributeError, IndexError):  # the part is gone
                self.choose.choice(self.changes)(self, tree)
        content = json.dumps(tree)
        if self.choose.random() < 0.1:
            content = self._damaged(content)
        file.write_bytes(content.encode(errors="surrogatepass"))
        if self.choose.random() < 0.15:
            names = ("bos_token", "eos_token", "pad_token", "chat_template", "tokenizer_class", "add_prefix_space")
            config.write_text(json.dumps({name: self.value() for name in names}))

    def value(self, depth: int = 0) -> Any:
        """Return a value that does not belong where it is put."""
        odd = [None, True, -1, 1 << 40, 10**200, 0.5, float("nan"), float("inf"), "", "\u2581", "<s>", "x" * 5000]
        odd += ["\ud800", "\0", [], {}, {"type": "ByteLevel"}, self.nested(self.choose.choice((3, 90, 200, 700)))]
        if depth < 3 and self.choose.random() < 0.3:
            return [self.value(depth + 1) for _ in range(3)]
        return self.choose.choice(odd)

    def nested(self, depth: int) -> Any:
        inner: Any = {"type": "Sequence", "normalizers": []}
        for _ in range(depth):
            inner = {"type": "Sequence", self.choose.choice(("normalizers", "decoders", "x")): [inner]}
        return inner

    def text(self) -> str:
        if self.choose.random() < 0.1:
            return self.choose.choice(("", "", "\ud800", "a" * 900))
        options = ("a", " ", "t", "\u2581", "\u0301", "\ufdfa", "the", "\u0130", "\u00e9", "e")
        return self.choose.choice(options) * self.choose.choice((1, 1, 1, 2, 8))

    def step(self, of: str) -> Any:
        """Return a step of a normalizer or decoder."""
        kinds = ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents")
        kinds = ("ByteFallback", "Fuse") if of == "decoder" else kinds
        options: list[Any] = [{"type": kind} for kind in kinds]
        replace = {"type": "Replace", "pattern": {"String": self.text()}, "content": self.text()}
        options += [replace] * 4 + [{"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}]
        if of == "decoder":
            options.append(
                {"type": "Strip", "content": "a", "start": self.choose.choice((0, 3, 1 << 60)), "stop": 0}
            )
        else:
            options.append({"type": "Prepend", "prepend": self.text()})
            options.append({"type": "Strip", "strip_left": True, "strip_right": True})
        if self.choose.random() < 0.1:
            options = [
                {"type": "Replace", "pattern": {"Regex": "(a|a)*$"}, "content": self.text()},
                {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
                {"type": "Metaspace", "replacement": self.text(), "prepend_scheme": "always", "split": True},
                {"type": "Precompiled"},
                self.value(),
            ]
        return self.choose.choice(options)

    def _steps(self, tree: dict[str, Any], name: str, key: str) -> None:
        steps = [self.step(name) for _ in range(self.choose.choice((1, 1, 2, 4)))]
        if self.choose.random() < 0.3:  # growth
            text, more = self.choose.choice(("a", "e", " ", "\u00e9")), self.choose.choice((1, 2, 9))
            step = {"type": "Replace", "pattern": {"String": text}, "content": text + text * more}
            steps = [step, *steps[1:]] * self.choose.choice((1, 3, 30))
        old = tree[name]
        if isinstance(old, dict) and self.choose.random() < 0.5:
            steps += old.get(key, [old])
        tree[name] = {"type": "Sequence", key: steps}

    def normalizer(self, tree: dict[str, Any]) -> None:
        self._steps(tree, "normalizer", "normalizers")

    def decoder(self, tree: dict[str, Any]) -> None:
        self._steps(tree, "decoder", "decoders")

    def pre_tokenizer(self, tree: dict[str, Any]) -> None:
        regexes = ("(a|a)*$", "(a+)+$", r"(.*)*\1", "", "(", foreign.LLAMA3, r"\p{L}{1,100000}")
        splits = [_SPLIT | {"pattern": {"Regex": regex}} for regex in self.choose.choices(regexes, k=2)]
        options = [{"type": "Sequence", "pretokenizers": [*splits, tree["pre_tokenizer"]]}, *splits]
        options += [
            self.nested(self.choose.choice((1, 100, 600))),
            {"type": "Metaspace", "replacement": self.text()},
        ]
        options += [_SPLIT | {"pattern": {"String": self.text()}, "behavior": "MergedWithPrevious"}, self.value()]
        tree["pre_tokenizer"] = self.choose.choice(options)

    def post_processor(self, tree: dict[str, Any]) -> None:
        pairs = {"sep": ["</s>", 2], "cls": ["<s>", self.value()]}
        single = [{"SpecialToken": {"id": self.choose.choice(("<s>", "<bos>", "x")), "type_id": 0}}]
        single += [{"Sequence": {"id": self.choose.choice("AB"), "type_id": 0}}] * self.choose.choice((0, 1, 9))
        special = {"<s>": {"id": "<s>", "ids": [self.choose.choice((1, 1 << 31, -1))], "tokens": ["<s>"]}}
        tree["post_processor"] = self.choose.choice((
            {"type": self.choose.choice(("RobertaProcessing", "BertProcessing")), **pairs},
            {"type": "TemplateProcessing", "single": single, "pair": single, "special_tokens": special},
            {"type": "Sequence", "processors": [{"type": "ByteLevel"}] * 50},
            self.value(),
        ))  # fmt: skip

    def added_tokens(self, tree: dict[str, Any]) -> None:
        known = {*tree["model"]["vocab"], *(token["content"] for token in tree["added_tokens"])}
        next_id = len(known)
        names = [self.text() or "" for _ in range(self.choose.choice((1, 3, 20)))]
        names += self.choose.choice(
            ([], [f"<{i}>" for i in range(20_000)], ["x" * 2_000_000], ["a" * n for n in range(900)])
        )
        names = [name for name in dict.fromkeys(names) if name not in known or self.choose.random() < 0.05]
        is_special = self.choose.random() < 0.5
        for number, name in enumerate(names):
            names_of_flags = ("single_word", "normalized", *(("lstrip", "rstrip") if is_special else ()))
            flags = {flag: self.choose.random() < 0.3 for flag in names_of_flags}
            token = {"id": next_id + number, "content": name, "lstrip": False, "rstrip": False} | flags
            tree["added_tokens"].append(token | {"special": is_special})

    def vocabulary(self, tree: dict[str, Any]) -> None:
        vocab = dict(tree["model"]["vocab"])
        size = len(vocab)
        changes = (
            {"": size},
            {"x" * 3_000_000: size},
            {"\ud800": size},
            {"new": self.value()},
            {"a": size},
            {"\0": size},
        )
        if self.choose.random() < 0.2:
            vocab = {name: number for name, number in vocab.items() if self.choose.random() < 0.9}
        tree["model"]["vocab"] = vocab | self.choose.choice(changes)

    def merges(self, tree: dict[str, Any]) -> None:
        merges = list(tree["model"]["merges"])
        more = ["a a", "a", "a b c", ["t", "h"], ["", ""], ["a", "\u0120"], self.value(), ["x" * 100_000, "y"]]
        self.choose.shuffle(merges)
        tree["model"]["merges"] = merges + self.choose.choices(more, k=self.choose.choice((0, 1, 3)))

    def anywhere(self, tree: dict[str, Any]) -> None:
        node: Any = tree
        for _ in range(self.choose.choice((1, 2, 3, 4))):
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            key = self.choose.choice(keys)
            if not (isinstance(node[key], dict | list) and node[key]):
                break
            parent, node = node, node[key]
            last = parent, key
        else:
            last[0][last[1]] = self.value()
            return
        node[key] = self.value()

    def model(self, tree: dict[str, Any]) -> None:
        names = (
            "dropout",
            "unk_token",
            "byte_fallback",
            "fuse_unk",
            "ignore_merges",
            "end_of_word_suffix",
            "type",
        )
        tree["model"][self.choose.choice(names)] = self.value()

    def call_settings(self, tree: dict[str, Any]) -> None:
        tree[self.choose.choice(("padding", "truncation"))] = self.value()

    def junk(self, tree: dict[str, Any]) -> None:
        tree["junk"] = self.choose.choice((self.nested(900), ["ab"] * 300_000, "x" * 5_000_000, self.value()))

    changes = (
        *(normalizer, normalizer, decoder, decoder, pre_tokenizer, post_processor, added_tokens, added_tokens),
        *(vocabulary, merges, anywhere, anywhere, model, call_settings, junk),
    )

    def _damaged(self, content: str) -> str:
        place = self.choose.randrange(len(content))
        start = content[:place]
        return self.choose.choice((
            start, "\ufeff" + content, start + "," + content[place:], "[" * 100_000,
            content[:-1] + ', "model": {}}',
            "[" + "[]," * 5_000_000 + "[]]", start + "\ud800" + content[place:], content.replace(":", "::", 1),
        ))  # fmt: skip


def attempt(folder: Path) -> str:
    """Use the tokenizer in a folder in each way; return "read" or "refused". Raises what is no CandlewickError."""
    try:
        tokenizer = Tokenizer.load(folder)
        for text in _TEXTS:
            ids = tokenizer.encode(text)
            tokenizer.decode(ids)
            tokenizer.decode_continuation(ids)
        for content in (tokenizer.encoder_json, tokenizer.continuation_json):
            if content is not None:
                make_encoder(content).encode(_TEXTS)
        out = folder / "out"
        out.mkdir()
        tokenizer.with_chat_tokens().encode("the of")
        tokenizer.write(out)
        assert Tokenizer.load(out).sha256 == tokenizer.sha256
    except CandlewickError as error:
        # the command line prints it on one line
        return "refused" if len(str(error)) < _MESSAGE_CHARS else f"refused in {len(str(error))} characters"
    return "read"


def work(first: int, last: int) -> None:
    """Attempt the folders of these seeds within the bounds; print a line before and after each."""
    logging.disable()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    for seed in range(first, last):
        print(f"{seed} began", flush=True)
        faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
        with tempfile.TemporaryDirectory() as folder:
            sys.setrecursionlimit(20_000)
            Hostility(seed).make(Path(folder))
            sys.setrecursionlimit(1000)
            try:
                outcome = attempt(Path(folder))
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                outcome = f"raised {traceback.format_exc()[-1500:]!r}"
            print(f"{seed} {outcome}", flush=True)
        faulthandler.cancel_dump_traceback_later()


def run(first: int, last: int) -> Iterator[tuple[int, str]]:
    """Yield the seed of each folder and its outcome: read, refused, or what broke the law."""
    while first < last:
        command = [sys.executable, "-m", "tests.faults.tokenizers", "--work", str(first), str(last)]
        with (
            tempfile.TemporaryFile("w+", errors="replace") as errors,
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as worker,
        ):
            assert worker.stdout is not None
            for line in worker.stdout:
                seed, outcome = line.rstrip("\n").split(" ", 1)
                first = int(seed)
                if outcome != "began":
                    yield first, outcome
            if worker.wait() == 0:
                return
            errors.seek(0)
            yield first, f"ended the process with {worker.returncode}: {errors.read()[-1500:]}"
        first += 1


def scenarios(progress: Progress) -> Iterator[tuple[str, Scenario]]:
    """Yield the judgment on each folder."""
    first = progress.seed * 1_000_000
    for seed, outcome in run(first, first + progress.count):

        def judge(folder: Path, outcome: str = outcome) -> Counter[str]:
            assert outcome in GOOD, outcome
            return Counter([outcome])

        yield f"seed {seed}", judge


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        work(int(sys.argv[2]), int(sys.argv[3]))
    else:
        run_campaign(__doc__, scenarios, 2000, "folders", seed="which millions of folders")
