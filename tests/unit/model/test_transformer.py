from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.model_variants import random_model
from torch._dynamo.testing import CompileCounterWithBackend
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from candlewick.config import ModelConfig
from candlewick.model.documents import Documents
from candlewick.model.transformer import Block, Transformer

SHAPE = {"hidden_size": 32, "num_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}


def build(vocab_size: int = 50, **changes) -> Transformer:
    return random_model(ModelConfig(**{**SHAPE, "max_position_embeddings": 32, **changes}), vocab_size)


def tokens_of(model: Transformer, batch: int = 2, length: int = 20) -> torch.Tensor:
    return torch.randint(model.vocab_size, (batch, length), generator=torch.Generator().manual_seed(1))


def hugging_face(model: Transformer):
    """The same weights in transformers' own class, loaded by name."""
    config = model.config
    common = {
        "vocab_size": model.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "rms_norm_eps": config.rms_norm_eps,
        "max_position_embeddings": config.max_position_embeddings,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "tie_word_embeddings": config.tie_word_embeddings,
        "attention_bias": config.attention_bias,
        "attn_implementation": "eager",
    }
    if config.qk_norm:
        theirs = Qwen3ForCausalLM(Qwen3Config(**common))
    else:
        theirs = LlamaForCausalLM(LlamaConfig(**common, mlp_bias=config.mlp_bias))
    theirs.load_state_dict(model.state_dict())
    return theirs.eval()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_key_value_heads": 2, "tie_word_embeddings": False},
        {"num_key_value_heads": 1, "head_dim": 12, "rope_theta": 500.0, "rms_norm_eps": 1e-3},
        {"qk_norm": False},
        {"qk_norm": False, "num_key_value_heads": 2, "head_dim": 6, "tie_word_embeddings": False},
        {"qk_norm": False, "num_key_value_heads": 2, "attention_bias": True, "mlp_bias": True},
    ],
)
def test_transformer_logits_equal_hugging_face(changes):
    model = build(**changes)
    tokens = tokens_of(model)
    with torch.no_grad():
        ours, theirs = model(tokens), hugging_face(model)(tokens).logits
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()


def test_transformer_is_causal():
    model = build(num_key_value_heads=2)
    tokens = tokens_of(model)
    other = tokens.clone()
    other[:, 12] = (other[:, 12] + 1) % model.vocab_size
    with torch.no_grad():
        before, after = model(tokens), model(other)
    assert torch.equal(before[:, :12], after[:, :12])
    assert not torch.allclose(before[:, 12:], after[:, 12:])


def test_transformer_with_grouped_heads_equals_repeated_keys_and_values():
    grouped = build(num_key_value_heads=2)
    plain = build(num_key_value_heads=4)
    state = dict(grouped.state_dict())
    for name in state:
        if "k_proj" in name or "v_proj" in name:
            state[name] = state[name].unflatten(0, (2, 8)).repeat_interleave(2, 0).flatten(0, 1)
    plain.load_state_dict(state)
    tokens = tokens_of(grouped)
    with torch.no_grad():
        assert torch.allclose(grouped(tokens), plain(tokens), rtol=1e-4, atol=1e-4)


WINDOWS = {"sliding_window": 3, "full_attention_every": 2}
OFF = {"rope_mode": "off", "mlp": "silu", "qk_norm": False}


@given(st.lists(st.integers(1, 8), min_size=1, max_size=4), st.sampled_from([{}, WINDOWS, OFF]))
@settings(max_examples=25, deadline=None)
def test_transformer_with_a_cache_reads_in_pieces_as_at_once(pieces, changes):
    model = build(num_key_value_heads=2, **changes)
    tokens = tokens_of(model, length=sum(pieces))
    cache = model.new_cache(batch_size=2, max_tokens=sum(pieces))
    with torch.no_grad():
        expected = model(tokens)
        parts = [model(part, cache=cache) for part in tokens.split(pieces, dim=1)]
    assert cache.length == sum(pieces)
    assert (torch.cat(parts, dim=1) - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_transformer_without_rope_sees_order_by_the_mask_only():
    model = build(num_layers=1, **OFF)
    tokens = tokens_of(model)
    other = torch.cat((tokens[:, :19].flip(1), tokens[:, 19:]), dim=1)
    with torch.no_grad():
        assert torch.allclose(model(tokens)[:, 19], model(other)[:, 19], rtol=1e-4, atol=1e-5)
    assert model.model.rotary_emb is None


def test_sliding_window_reaches_its_width_minus_one_per_layer():
    model = build(sliding_window=4)
    tokens = tokens_of(model)
    other = tokens.clone()
    other[:, 5] = (other[:, 5] + 1) % model.vocab_size
    with torch.no_grad():
        changed = (model(tokens) != model(other)).any(-1).any(0)
    assert changed.nonzero().flatten().tolist() == list(range(5, 5 + 2 * (4 - 1) + 1))


def documents_of(*rows: str) -> Documents:
    return Documents.from_starts(torch.tensor([[letter == "x" for letter in row] for row in rows]))


DOCUMENTS = [("x..x......", "x.xx....x."), ("..........", "xxxxxxxxxx"), ("x....x....", ".........x")]


@pytest.mark.parametrize("changes", [{"num_key_value_heads": 2}, WINDOWS, {"rope_mode": "on_the_fly"}, OFF])
def test_document_in_a_packed_row_equals_the_document_in_a_row_by_itself(core_row, changes):
    model = build(**changes).double()
    tokens = tokens_of(model, length=10)
    worst = 0.0
    for rows in DOCUMENTS:
        documents = documents_of(*rows)
        with torch.no_grad():
            found = model(tokens, documents=documents).flatten(0, 1).split(documents.lengths)
            alone = [model(part[None])[0] for part in tokens.flatten().split(documents.lengths)]
        differences = [(a - b).abs().max() / b.abs().max() for a, b in zip(found, alone, strict=True)]
        worst = max(worst, *(difference.item() for difference in differences))
    core_row("data.document_mask=true", "each document alone, float64", worst, 1e-12)


@pytest.mark.filterwarnings(
    "ignore:.*should not be instantiated"
)  # the compiler itself does, on autograd functions
def test_compiled_transformer_is_not_recompiled_for_other_documents():
    model = build(num_key_value_heads=2, **WINDOWS)
    counter = CompileCounterWithBackend("eager")
    torch._dynamo.reset()
    compiled = torch.compile(model.hidden, backend=counter, fullgraph=True, dynamic=False)
    tokens = tokens_of(model, length=10)
    for rows in DOCUMENTS:
        documents = documents_of(*rows)
        found, expected = compiled(tokens, documents=documents), model.hidden(tokens, documents=documents)
        assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)
        ours, theirs = (torch.autograd.grad(x.square().sum(), list(model.parameters())) for x in (found, expected))
        assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in zip(ours, theirs, strict=True))
    assert counter.frame_count == 1


def test_documents_and_a_cache_exclude_each_other():
    model = build()
    with pytest.raises(ValueError, match="a cache holds one document per row"):
        model(tokens_of(model), cache=model.new_cache(2, 20), documents=documents_of("x" * 20, "x" * 20))


def test_transformer_parameter_names_are_those_of_the_saved_file():
    names = set(build(num_layers=1, tie_word_embeddings=False).state_dict())
    block = {
        *(f"self_attn.{part}.weight" for part in ("q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm")),
        *(f"mlp.{part}_proj.weight" for part in ("gate", "up", "down")),
        "input_layernorm.weight",
        "post_attention_layernorm.weight",
    }
    outside = {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"}
    assert names == outside | {f"model.layers.0.{name}" for name in block}
    assert "lm_head.weight" not in dict(build().named_parameters())


@pytest.mark.parametrize("changes", [{}, {"rope_mode": "on_the_fly"}, OFF])
@pytest.mark.parametrize("tied", [True, False])
def test_transformer_built_on_meta_computes_the_same(tied, changes):
    model = build(tie_word_embeddings=tied, **changes)
    with torch.device("meta"):
        other = Transformer(model.config, model.vocab_size)
    assert all(parameter.is_meta for parameter in other.parameters())
    other.to_empty(device="cpu")
    other.init_buffers()
    assert (other.lm_head.weight is other.model.embed_tokens.weight) == tied
    other.load_state_dict(model.state_dict())
    tokens = tokens_of(model)
    with torch.no_grad():
        assert torch.equal(other.eval()(tokens), model(tokens))


@pytest.mark.parametrize("kind", ["residual_dropout", "attn_dropout"])
def test_dropout_acts_in_training_only(kind):
    settings: dict[str, Any] = {kind: 0.3}
    plain, dropping = build(), build(**settings)
    tokens = tokens_of(plain)
    torch.manual_seed(0)
    with torch.no_grad():
        assert torch.equal(plain(tokens), dropping(tokens))
        assert not torch.allclose(plain(tokens), dropping.train()(tokens))
        assert not torch.equal(dropping(tokens), dropping(tokens))


def test_residual_dropout_drops_the_output_of_attention_and_mlp(core_row):
    block = build(residual_dropout=0.3, rope_mode="off").model.layers[0].train()
    assert isinstance(block, Block)
    x = torch.randn(2, 20, 32)
    torch.manual_seed(3)
    ours = block(x, None, None, None)
    torch.manual_seed(3)
    first, second = (F.dropout(torch.ones_like(x), 0.3) for _ in range(2))
    middle = x + first * block.self_attn(block.input_layernorm(x), None, None, None)
    expected = middle + second * block.mlp(block.post_attention_layernorm(middle))
    error = (ours - expected).abs().max() / expected.abs().max()
    core_row("model.residual_dropout", "written out with the same random masks, float32", error.item(), 1e-6)


def test_transformer_refuses_more_tokens_than_positions():
    model = build()
    with pytest.raises(ValueError, match="position 32 is beyond max_position_embeddings=32"):
        model(torch.zeros(1, 33, dtype=torch.long))
