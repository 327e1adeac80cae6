"""transformers reads a checkpoint folder: equal logits, token ids and generated text."""

import json
import random
import shutil
import unicodedata
from collections import defaultdict
from typing import Any

import pytest
import torch
from tests.model_variants import SAME_FUNCTION, VARIANTS, random_model, variants
from tests.prepared import newest_checkpoint
from transformers import AutoModelForCausalLM, AutoTokenizer

from candlewick.checkpoint.generation import generation_config
from candlewick.checkpoint.huggingface import model_type, to_hf_config, to_hf_tensors
from candlewick.checkpoint.load import load_for_inference, load_weights, read_resized_weights
from candlewick.checkpoint.open import Checkpoint
from candlewick.checkpoint.save import full_weights, write_tensors
from candlewick.config import ModelConfig
from candlewick.model.documents import Documents
from candlewick.model.transformer import Transformer
from candlewick.runs.train import run_training
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
    folder = newest_checkpoint(tmp_path / "run" / "checkpoints")

    ours, _ = load_for_inference(folder, torch.device("cpu"))
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    assert type(theirs).__name__ == ("LlamaForCausalLM" if "qk_norm" in shape else "Qwen3ForCausalLM")
    tokens = torch.randint(300, (4, 32), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, found = theirs(tokens).logits, ours(tokens)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    parameters = dict(ours.named_parameters())
    assert {name for name, _ in theirs.named_parameters()} == parameters.keys()


SCALINGS = [
    None,
    {"rope_type": "linear", "factor": 2.5},
    {"rope_type": "ntk", "alpha": 3.0},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
    {"rope_type": "llama3", "factor": 4.0, "original_max_position_embeddings": 24},
]
FAMILIES = ("qwen3", "llama", "mistral", "smollm3")


def random_shape(number: int) -> ModelConfig:
    """A model that a class of transformers can say: family and scaling in turn, the rest drawn."""
    choose = random.Random(number)
    kind, scaling = FAMILIES[number % 4], SCALINGS[number % 5]
    kv_heads = choose.choice((1, 2))
    heads = kv_heads * choose.choice((1, 2, 3))
    has_biases = kind in ("llama", "smollm3")
    mlp = "silu" if has_biases and choose.random() < 0.4 else "swiglu"
    window = choose.randint(2, 9) if kind == "mistral" or (kind != "llama" and choose.random() < 0.5) else None
    return ModelConfig(
        hidden_size=heads * choose.choice((4, 6, 10)),
        num_layers=choose.choice((2, 3)),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=choose.choice((6, 8, 12)),
        mlp=mlp,
        intermediate_size=choose.choice((24, 40)),
        max_position_embeddings=32,
        rope_mode="off" if kind == "smollm3" else choose.choice(("preapply", "on_the_fly")),
        rope_theta=choose.choice((100.0, 10_000.0)),
        rope_scaling=None if kind == "smollm3" else scaling,
        sliding_window=window,
        full_attention_every=2 if window and kind != "mistral" and choose.random() < 0.5 else None,
        rms_norm_eps=choose.choice((1e-6, 1e-3)),
        qk_norm=kind == "qwen3",
        attention_bias=has_biases and choose.random() < 0.5,
        mlp_bias=mlp == "silu" or (has_biases and choose.random() < 0.5),
        tie_word_embeddings=choose.random() < 0.5,
    )


def as_transformers_reads(model: Transformer, folder):
    """Save a model as a checkpoint does, and let transformers make its own of the folder."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(to_hf_config(model.config, model.vocab_size, 0, None)))
    write_tensors(folder / "model.safetensors", to_hf_tensors(model.config, full_weights(model)))
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    assert theirs.config.model_type == model_type(model.config)
    return theirs.eval()


def read_in_pieces(model: Transformer, tokens: torch.Tensor) -> torch.Tensor:
    cache = model.new_cache(*tokens.shape)
    pieces = (tokens[:, :5], tokens[:, 5:9], *tokens[:, 9:].split(1, dim=1))
    return torch.cat([model(piece, cache=cache) for piece in pieces], dim=1)


def modes_of(config: ModelConfig) -> list[str]:
    """The rows of docs/core.md that a model stands for."""
    modes = [f"model.{key}={getattr(config, key)}" for key in ("mlp", "rope_mode")]
    flags = ("qk_norm", "tie_word_embeddings", "attention_bias", "mlp_bias")
    modes += [f"model.{key}={str(getattr(config, key)).lower()}" for key in flags]
    if config.rope_scaling is not None:
        modes.append(f"model.rope_scaling.rope_type={config.rope_scaling.rope_type}")
    if config.num_key_value_heads < config.num_attention_heads:
        modes.append("model.num_key_value_heads (grouped)")
    if config.sliding_window is not None:
        modes.append("model.sliding_window")
    if config.full_attention_every is not None:
        modes.append("model.full_attention_every")
    return modes


def test_random_model_shapes_compute_the_same_in_transformers(core_row, tmp_path):
    worst: defaultdict[str, float] = defaultdict(float)
    classes: defaultdict[str, set[str]] = defaultdict(set)
    tokens = torch.randint(64, (2, 20), generator=torch.Generator().manual_seed(0))
    for number in range(24):
        model = random_model(random_shape(number))
        theirs = as_transformers_reads(model, tmp_path / str(number))
        with torch.no_grad():
            expected, found, cached = theirs(tokens).logits, model(tokens), read_in_pieces(model, tokens)
        scale = expected.abs().max()
        error = ((found - expected).abs().max() / scale).item()
        assert error <= 1e-5, f"shape {number}: {model.config}"
        errors: dict[str, Any] = dict.fromkeys(modes_of(model.config), error)
        errors["key-value cache"] = ((cached - expected).abs().max() / scale).item()
        for mode, value in errors.items():
            worst[mode] = max(worst[mode], value)
            classes[mode].add(type(theirs).__name__.removesuffix("ForCausalLM"))
    for mode, error in worst.items():
        core_row(mode, f"transformers {', '.join(sorted(classes[mode]))}; float32, eager", error, 1e-5)


@pytest.mark.parametrize("field", VARIANTS)
def test_model_field_has_the_same_effect_in_transformers_or_is_refused(tmp_path, field):
    tokens = torch.randint(64, (2, 20), generator=torch.Generator().manual_seed(0))
    changed_functions, number = 0, 0
    for number, (base, config) in enumerate(variants(field), start=1):
        model, before = random_model(config), random_model(base)
        folder = tmp_path / str(number)
        with torch.no_grad():
            found, unchanged = model(tokens), before(tokens)
            has_same_weights = model.state_dict().keys() == before.state_dict().keys() and all(
                tensor.shape == model.state_dict()[name].shape for name, tensor in before.state_dict().items()
            )
            changed_functions += not has_same_weights or not torch.allclose(found, unchanged, atol=1e-3)
            if model_type(config) == "candlewick":
                with pytest.raises(ValueError, match="model type `candlewick`"):
                    as_transformers_reads(model, folder)
            else:
                expected = as_transformers_reads(model, folder)(tokens).logits
                assert (found - expected).abs().max() <= 1e-5 * expected.abs().max(), config
    assert number, f"no base takes a value of model.{field}: give VARIANTS one"
    assert (changed_functions > 0) == (field not in SAME_FUNCTION)


def test_model_saved_by_transformers_is_read_back(tmp_path):
    for number in range(8):
        model = random_model(random_shape(number))
        as_transformers_reads(model, tmp_path / str(number)).save_pretrained(tmp_path / f"{number}, theirs")
        again = Transformer(model.config, 64)
        theirs = Checkpoint.open(tmp_path / f"{number}, theirs", need={"weights"})
        load_weights(again, read_resized_weights(theirs, again.vocab_size), theirs.folder)
        named = dict(again.named_parameters())
        assert all(torch.equal(tensor, named[name]) for name, tensor in model.named_parameters())


@pytest.mark.parametrize("number", [0, 2, 3])
def test_document_of_a_packed_row_equals_transformers_on_that_document(core_row, tmp_path, number):
    model = random_model(random_shape(number))
    theirs = as_transformers_reads(model, tmp_path / "folder")
    tokens = torch.randint(64, (2, 20), generator=torch.Generator().manual_seed(0))
    starts = torch.rand(2, 20, generator=torch.Generator().manual_seed(1)) < 0.2
    documents = Documents.from_starts(starts)
    with torch.no_grad():
        found = model(tokens, documents=documents).flatten(0, 1)
        expected = torch.cat([theirs(part[None]).logits[0] for part in tokens.flatten().split(documents.lengths)])
    error = ((found - expected).abs().max() / expected.abs().max()).item()
    reference = f"transformers {model_type(model.config)} on each document alone, float32, eager"
    core_row("data.document_mask=true", reference, error, 1e-5)


@pytest.fixture(scope="module")
def folder(trained):
    return newest_checkpoint(trained / "checkpoints")


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


def test_transformers_encodes_ten_thousand_strings_to_the_same_ids(folder):
    strings = make_strings(10_100)[:10_000]
    assert len(strings) == 10_000
    ours, theirs = Tokenizer.load(folder), AutoTokenizer.from_pretrained(folder)
    ids = theirs(strings)["input_ids"]
    wrong = [text for text, expected in zip(strings, ids, strict=True) if ours.encode(text) != expected]
    assert wrong == []
    assert all(theirs.decode(i) == ours.decode(i) == text for text, i in zip(strings[:1000], ids, strict=False))
    assert len(theirs) == ours.vocab_size
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (0, 0, ours.padding_id)


def test_transformers_generates_from_a_checkpoint_folder(folder):
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert model.generation_config.eos_token_id == 0
    prompt = tokenizer("The man", return_tensors="pt").input_ids
    written = model.generate(prompt, max_new_tokens=5, do_sample=False)
    ours, _ = load_for_inference(folder, torch.device("cpu"))
    tokens = prompt
    for _ in range(written.shape[1] - prompt.shape[1]):
        tokens = torch.cat([tokens, ours(tokens)[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(written, tokens)


def test_transformers_takes_a_number_of_new_tokens_without_a_warning(trained, tmp_path, caplog):
    """With max_length in generation_config.json it warned at each call."""
    checkpoint = Checkpoint.open(trained, need={"weights"})
    inherited = {**checkpoint.generation, "max_length": 32}
    for number, entries in enumerate(({}, inherited)):
        folder = tmp_path / str(number)
        shutil.copytree(checkpoint.folder, folder)
        written = generation_config([0], 0, (), entries)
        (folder / "generation_config.json").write_text(json.dumps(written))
        theirs: Any = AutoModelForCausalLM.from_pretrained(folder)
        with caplog.at_level("WARNING", "transformers"):
            theirs.generate(torch.tensor([[0, 40, 41]]), max_new_tokens=2)
    assert not [record.getMessage() for record in caplog.records]
