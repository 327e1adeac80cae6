"""Build foreign tokenizers with the tokenizers library: like those of transformer_candle, Llama and Qwen."""

import json
import random
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, processors, trainers
from tokenizers import pre_tokenizers as pre

Tree = dict[str, Any]

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
WORDS = (
    "the of and def return self import token naïve Straße été 日本語 слово 12 345 x_y == // it's we'll Hello "
    "transformer attention embedding gradient caf\u00e9 word"
).split()


def texts(seed: int = 0, count: int = 150) -> list[str]:
    choose = random.Random(seed)
    gaps = [" ", " ", "\n", "  ", ", ", "\r\n"]
    return ["".join(choose.choice(WORDS) + choose.choice(gaps) for _ in range(50)) for _ in range(count)]


def candle(
    *, convention: str = "bos", alphabet: bool = False, dropout: float | None = None, **options: bool
) -> Tokenizer:
    """As transformer_candle did: no initial alphabet, byte_fallback without tokens; `stream` has no template."""
    specials = ["<pad>", "<bos>", "<eos>"] if convention == "bos" else ["<|endoftext|>", "<|pad|>"]
    rust = Tokenizer(models.BPE(byte_fallback=True, dropout=dropout))
    rust.pre_tokenizer = pre.ByteLevel(**{"add_prefix_space": True} | options)
    rust.decoder = decoders.ByteLevel()
    more: dict[str, Any] = {"initial_alphabet": pre.ByteLevel.alphabet()} if alphabet else {}
    trainer = trainers.BpeTrainer(
        vocab_size=450, min_frequency=2, special_tokens=specials, show_progress=False, **more
    )
    rust.train_from_iterator([text.encode("ascii", "ignore").decode() for text in texts()], trainer)
    if convention == "bos":
        rust.post_processor = processors.TemplateProcessing(
            single="<bos> $A <eos>",
            pair="<bos> $A <eos> <bos> $B <eos>",
            special_tokens=[("<bos>", 1), ("<eos>", 2)],
        )
    return rust


def _hub(pattern: str, specials: list[str], *, ignore_merges: bool = False, nfc: bool = False) -> Tokenizer:
    rust = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    split = pre.Split(Regex(pattern), "isolated")
    rust.pre_tokenizer = pre.Sequence([split, pre.ByteLevel(add_prefix_space=False, use_regex=False)])
    rust.decoder = decoders.ByteLevel()
    if nfc:
        rust.normalizer = normalizers.NFC()
    trainer = trainers.BpeTrainer(vocab_size=450, initial_alphabet=pre.ByteLevel.alphabet(), show_progress=False)
    rust.train_from_iterator(texts(), trainer)
    rust.add_special_tokens(specials)
    return rust


def qwen2() -> Tokenizer:
    rust = _hub(QWEN2, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], nfc=True)
    rust.post_processor = processors.ByteLevel(trim_offsets=False)
    return rust


def qwen3() -> Tokenizer:
    """Like Qwen2's, with added tokens that are not special."""
    rust = qwen2()
    rust.add_tokens(["<think>", "</think>"])
    return rust


def llama3() -> Tokenizer:
    rust = _hub(LLAMA3, ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"], ignore_merges=True)
    begin = rust.token_to_id("<|begin_of_text|>")
    template = processors.TemplateProcessing(
        single="<|begin_of_text|> $A",
        pair="<|begin_of_text|> $A <|begin_of_text|> $B:1",
        special_tokens=[("<|begin_of_text|>", begin)],
    )
    rust.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=True), template])
    return rust


def llama2(*, legacy: bool = True) -> Tokenizer:
    """A BPE of SentencePiece with the bytes as tokens; `legacy` has the space in the normalizer."""
    rust = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    rust.pre_tokenizer = pre.Metaspace(prepend_scheme="first", split=False)
    specials = ["<unk>", "<s>", "</s>"]
    letters = sorted(set("".join(texts())) - set(" \n\r"))[:80]
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=[*specials, *(f"<0x{byte:02X}>" for byte in range(256))],
        initial_alphabet=letters,
        limit_alphabet=82,
        show_progress=False,
    )
    pieces = pre.Metaspace(prepend_scheme="first", split=True)
    rust.pre_tokenizer = pieces
    rust.train_from_iterator(texts(), trainer)
    tree = json.loads(rust.to_str())
    tree["added_tokens"] = tree["added_tokens"][:3]
    space = {"String": " "}, {"String": "\u2581"}
    if legacy:
        tree["normalizer"] = {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "\u2581"},
                {"type": "Replace", "pattern": space[0], "content": "\u2581"},
            ],
        }
        tree["pre_tokenizer"] = None
    else:
        tree["pre_tokenizer"]["split"] = False
    tree["decoder"] = {
        "type": "Sequence",
        "decoders": [
            {"type": "Replace", "pattern": space[1], "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ],
    }
    rust = Tokenizer.from_str(json.dumps(tree))
    rust.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B:1", special_tokens=[("<s>", 1)]
    )
    return rust


SETTINGS: dict[str, Tree] = {
    "qwen2": {"bos_token": None, "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
    "qwen3": {"eos_token": {"content": "<|im_end|>"}, "pad_token": "<|endoftext|>", "chat_template": "theirs"},
    "llama3": {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
    "llama2": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
}
KINDS = {
    "candle": candle,
    "candle_stream": lambda: candle(convention="stream"),
    "candle_full": lambda: candle(alphabet=True),
    "candle_plain": lambda: candle(alphabet=True, add_prefix_space=False, trim_offsets=False),
    "candle_no_regex": lambda: candle(alphabet=True, use_regex=False),
    "qwen2": qwen2,
    "qwen3": qwen3,
    "llama3": llama3,
    "llama2": llama2,
    "llama2_metaspace": lambda: llama2(legacy=False),
}


def write(kind: str, folder: Path) -> Tokenizer:
    """Write one of KINDS as its makers publish it: tokenizer.json and, of the Hub, tokenizer_config.json."""
    rust = KINDS[kind]()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(rust.to_str(pretty=True), encoding="utf-8")
    if settings := SETTINGS.get(kind.partition("_")[0]):
        (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return rust
