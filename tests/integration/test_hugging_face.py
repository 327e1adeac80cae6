"""A checkpoint is a Hugging Face model as it is: same logits, same token ids, same text."""

import random
import unicodedata

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from candlewick.checkpoint.layout import newest_valid
from candlewick.checkpoint.load import load_for_inference
from candlewick.pipeline.training import run_training
from candlewick.tokenizer.bpe import Tokenizer

SHAPES = {
    "qwen3": {},
    "qwen3, untied, grouped": {"tie_word_embeddings": False, "num_attention_heads": 4, "num_key_value_heads": 2},
    "llama": {"qk_norm": False},
    "llama, untied, biased": {
        "qk_norm": False,
        "tie_word_embeddings": False,
        "attention_bias": True,
        "mlp_bias": True,
        "head_dim": 24,
    },
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_transformers_computes_the_same_logits(tiny, tmp_path, shape):
    model = {"hidden_size": 32, "num_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 32, **shape}
    runtime = {**tiny().runtime.model_dump(mode="json"), "sample": None}
    config = tiny(model=model, runtime=runtime, scheduler={"total_steps": 6, "warmup_steps": 2})
    run_training(config, tmp_path / "run", resume=False)
    folder = newest_valid(tmp_path / "run" / "checkpoints")

    ours, _ = load_for_inference(folder, torch.device("cpu"))
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    assert type(theirs).__name__ == ("LlamaForCausalLM" if "qk_norm" in shape else "Qwen3ForCausalLM")
    tokens = torch.randint(300, (4, 32), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, found = theirs(tokens).logits, ours(tokens)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    parameters = dict(ours.named_parameters())
    assert {name for name, _ in theirs.named_parameters()} == parameters.keys()


@pytest.fixture(scope="module")
def folder(trained):
    return newest_valid(trained / "checkpoints")


def make_strings(count: int) -> list[str]:
    """Random strings of all that text may hold, and all that tokenizers stumble over."""
    choose = random.Random(7)
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    pools = [
        *(letters, letters, "0123456789", " ", "  \n\t", "\r\n", ".,;:!?'\"()[]{}<>|/\\@#$%^&*-_=+~`"),
        "".join(map(chr, range(32))) + "\x7f\x80\x85\xa0\xad\u200b\u200d\u2028\u2029\ufeff\ufffd",
        unicodedata.normalize("NFD", "éüñåçøÉÜÑÅÇ") + "\u0301\u0308\u0327\u1ab0",
        "éüñåçøßÆœŁ" + "αβγδ" + "абвгд" + "שלום" + "مرحبا" + "नमस्ते" + "ไทย",
        "一二三四五六七八九十日本語中文漢字ひらがなカタカナ한국어",
        "😀👍🏽👩‍👩‍👧‍👦🇩🇪🏴‍☠️𝕏𐍈",
        "".join(map(chr, (0xE000, 0xF8FF, 0xFFFE, 0x10FFFF, 0x1D11E, 0x2F800))),
    ]
    words = ["<|endo", "ftext|>", "<|", "|>", "<|padding", "'s", "'LL", "def ", "the ", "12345", "_x", "    "]
    strings = []
    for _ in range(count):
        parts = [
            choose.choice(words) if choose.random() < 0.15 else choose.choice(choose.choice(pools))
            for _ in range(choose.randrange(24))
        ]
        strings.append("".join(parts))
    special = ("<|endoftext|>", "<|padding|>")  # in their encode these are special, in ours text is text
    return [text for text in strings if not any(name in text for name in special)]


def test_transformers_makes_the_same_ids_of_ten_thousand_strings(folder):
    strings = make_strings(10_100)[:10_000]
    assert len(strings) == 10_000
    ours, theirs = Tokenizer.load(folder), AutoTokenizer.from_pretrained(folder)
    ids = theirs(strings)["input_ids"]
    wrong = [text for text, expected in zip(strings, ids, strict=True) if ours.encode(text) != expected]
    assert wrong == []
    assert all(theirs.decode(i) == ours.decode(i) == text for text, i in zip(strings[:1000], ids, strict=False))
    assert len(theirs) == ours.vocab_size
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (0, 0, ours.padding_id)


def test_transformers_generates_from_the_folder(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert model.generation_config.eos_token_id == 0
    prompt = tokenizer("The man", return_tensors="pt").input_ids
    written = model.generate(prompt, max_new_tokens=5, do_sample=False)
    ours, _ = load_for_inference(folder, torch.device("cpu"))
    tokens = prompt
    for _ in range(written.shape[1] - prompt.shape[1]):
        tokens = torch.cat([tokens, ours(tokens)[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(written, tokens)
