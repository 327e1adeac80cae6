"""The parameters of a model and the FLOPs of training on a token: closed forms, without torch.

Both conventions count 2 for a multiply-add, the backward pass as two forward passes, and no recomputation:

    strict   6 N + 6 L H d T     a causal token sees T / 2 others on average, with a window of w < T
                                 w - w^2 / (2 T)
    palm     6 N + 12 L H d T    arXiv:2204.02311 appendix B: attention as if it were not causal; w instead of T

N is the number of weights in matrix products: every matrix of the blocks, and the head (tied or not). Embedding,
norms and biases are left out. MFU = FLOPs per token * tokens per second / peak.
"""

from dataclasses import dataclass

from candlewick.config import ModelConfig


@dataclass(frozen=True, slots=True)
class ModelSize:
    """The numbers of parameters of a model."""

    total: int  # a tied embedding is counted once
    matmul: int  # N above


@dataclass(frozen=True, slots=True)
class FlopsPerToken:
    """The FLOPs of training on one token, forward and backward, in both conventions."""

    strict: int
    palm: int


def model_size(config: ModelConfig, vocab_size: int) -> ModelSize:
    """Count the parameters of `Transformer(config, vocab_size)` without building it."""
    hidden, width = config.hidden_size, config.intermediate_size
    query_width = config.num_attention_heads * config.head_dim
    key_width = config.num_key_value_heads * config.head_dim
    num_up_projections = 2 if config.mlp == "swiglu" else 1  # from D to F
    matrices = 2 * hidden * query_width + 2 * hidden * key_width + (num_up_projections + 1) * hidden * width
    vectors = 2 * hidden
    if config.qk_norm:
        vectors += 2 * config.head_dim
    if config.attention_bias:
        vectors += query_width + 2 * key_width + hidden
    if config.mlp_bias:
        vectors += num_up_projections * width + hidden
    table = vocab_size * hidden
    tables = table if config.tie_word_embeddings else 2 * table
    total = tables + config.num_layers * (matrices + vectors) + hidden
    return ModelSize(total, config.num_layers * matrices + table)


def flops_per_token(config: ModelConfig, vocab_size: int, sequence_length: int) -> FlopsPerToken:
    """Return the FLOPs of training on one token in a row of `sequence_length` tokens."""
    products = 6 * model_size(config, vocab_size).matmul
    layers = range(config.num_layers)
    windows = [min(config.window_of(layer) or sequence_length, sequence_length) for layer in layers]
    pairs = sum(w * (2 * sequence_length - w) for w in windows)  # twice the (query, key) pairs of a row
    width = 6 * config.num_attention_heads * config.head_dim
    strict = products + width * pairs // sequence_length
    return FlopsPerToken(strict, palm=products + 2 * width * sum(windows))
