"""How large a model is, and what a token costs to train: closed forms, no torch.

Both conventions count 2 for a multiply-add, forward once and backward twice, and nothing for recomputation:

    strict   6 N + 6 L H d T     a causal token sees T / 2 others on average, with a window of w < T
                                 it is w - w^2 / (2 T)
    palm     6 N + 12 L H d T    arXiv:2204.02311 appendix B: as if it were not causal; a window's w instead of T

N counts the weights that are multiplied with: every matrix of the blocks, and the head (tied or not), but not
the embedding, which is looked up, nor norms and biases. MFU = FLOPs per token * tokens per second / peak.
"""

from dataclasses import dataclass

from candlewick.config import ModelConfig


@dataclass(frozen=True, slots=True)
class ModelSize:
    """Parameters of a model, exactly."""

    total: int  # each stored number once: a tied embedding is counted once
    multiplied: int  # N above


@dataclass(frozen=True, slots=True)
class FlopsPerToken:
    """FLOPs to train on one token, forward and backward, in both conventions."""

    strict: int
    palm: int


def model_size(config: ModelConfig, vocab_size: int) -> ModelSize:
    """Count the parameters of `Transformer(config, vocab_size)` without building it."""
    hidden, width = config.hidden_size, config.intermediate_size
    query_width = config.num_attention_heads * config.head_dim
    key_width = config.num_key_value_heads * config.head_dim
    raised = 2 if config.mlp == "swiglu" else 1  # projections from D to F
    matrices = 2 * hidden * query_width + 2 * hidden * key_width + (raised + 1) * hidden * width
    vectors = 2 * hidden
    if config.qk_norm:
        vectors += 2 * config.head_dim
    if config.attention_bias:
        vectors += query_width + 2 * key_width + hidden
    if config.mlp_bias:
        vectors += raised * width + hidden
    table = vocab_size * hidden
    tables = table if config.tie_word_embeddings else 2 * table
    total = tables + config.num_layers * (matrices + vectors) + hidden
    return ModelSize(total, config.num_layers * matrices + table)


def flops_per_token(config: ModelConfig, vocab_size: int, sequence_length: int) -> FlopsPerToken:
    """FLOPs of one token in a row of `sequence_length` tokens, forward and backward."""
    products = 6 * model_size(config, vocab_size).multiplied
    windows = (config.window_of(layer) or sequence_length for layer in range(config.num_layers))
    reach = [min(window, sequence_length) for window in windows]
    visible = sum(w * (2 * sequence_length - w) for w in reach)  # twice the tokens that a row's queries see
    width = 6 * config.num_attention_heads * config.head_dim
    strict = products + width * visible // sequence_length
    return FlopsPerToken(strict, palm=products + 2 * width * sum(reach))
