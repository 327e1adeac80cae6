"""A decoder-only transformer of the Llama and Qwen3 families.

    tokens -> embed_tokens -> block x L -> norm -> lm_head -> logits

    block:  x = x + o_proj(attend(rotate(q_norm(q)), rotate(k_norm(k)), v))     q, k, v of input_layernorm(x)
            x = x + down_proj(silu(gate_proj(y)) * up_proj(y))                  y = post_attention_layernorm(x)

With `qk_norm` it is Qwen3ForCausalLM exactly, without it LlamaForCausalLM; checkpoint/huggingface.py has the other
classes. `mlp: silu` is down_proj(silu(up_proj(y))). Modules and parameters have Hugging Face's names.

B batch   T new tokens   D hidden_size   H query heads   K key-value heads   d head_dim   F intermediate_size
V vocab_size   L num_layers

This file knows mathematics only: no loss, device, rank or compilation. Those are applied from outside.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from candlewick.config import ModelConfig
from candlewick.model.attention import attend
from candlewick.model.cache import ContiguousCache, KVCache
from candlewick.model.documents import Documents
from candlewick.model.norm import RMSNorm
from candlewick.model.paged import PagedCache
from candlewick.model.rope import Rotary, Rotation, rotate


class Linear(nn.Linear):
    """A matrix product. On the meta device no numbers are drawn: torch would import its compiler for it."""

    def reset_parameters(self) -> None:
        """Draw initial numbers, unless there is no memory for them."""
        if not self.weight.is_meta:
            super().reset_parameters()


class Embedding(nn.Embedding):
    """A table of rows. On the meta device no numbers are drawn, as with `Linear`."""

    def reset_parameters(self) -> None:
        """Draw initial numbers, unless there is no memory for them."""
        if not self.weight.is_meta:
            super().reset_parameters()


class Attention(nn.Module):
    """Causal grouped-query attention with rotary positions."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.head_dim, self.dropout = layer, config.head_dim, config.attn_dropout
        self.window = config.window_of(layer)
        query_width = config.num_attention_heads * config.head_dim
        key_width = config.num_key_value_heads * config.head_dim
        bias = config.attention_bias
        self.q_proj = Linear(config.hidden_size, query_width, bias)
        self.k_proj = Linear(config.hidden_size, key_width, bias)
        self.v_proj = Linear(config.hidden_size, key_width, bias)
        self.o_proj = Linear(query_width, config.hidden_size, bias)
        self.q_norm = RMSNorm(config.head_dim, config.rms_norm_eps) if config.qk_norm else None
        self.k_norm = RMSNorm(config.head_dim, config.rms_norm_eps) if config.qk_norm else None

    def forward(
        self, x: Tensor, rotation: Rotation | None, cache: KVCache | None, documents: Documents | None
    ) -> Tensor:
        """x (B, T, D) -> (B, T, D); keys and values of x are appended to the cache."""
        q = self.q_proj(x).unflatten(-1, (-1, self.head_dim))  # (B, T, H, d)
        k = self.k_proj(x).unflatten(-1, (-1, self.head_dim))  # (B, T, K, d)
        v = self.v_proj(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)  # (B, K, T, d)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        q, k = q.transpose(1, 2), k.transpose(1, 2)  # (B, H, T, d), (B, K, T, d)
        if cache is not None:
            k, v = cache.append(self.layer, k, v)  # (B, K, past + T, d)
        dropout = self.dropout if self.training else 0.0
        y = attend(q, k, v, window=self.window, dropout=dropout, documents=documents)
        return self.o_proj(y.transpose(1, 2).flatten(2))  # (B, T, D)


class GatedFeedForward(nn.Module):
    """The gated MLP, SwiGLU (arXiv:2002.05202)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, bias = config.intermediate_size, config.mlp_bias
        self.gate_proj = Linear(config.hidden_size, width, bias)
        self.up_proj = Linear(config.hidden_size, width, bias)
        self.down_proj = Linear(width, config.hidden_size, bias)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, D) -> (B, T, D)."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class FeedForward(nn.Module):
    """The MLP without a gate: two products instead of three."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.up_proj = Linear(config.hidden_size, config.intermediate_size, config.mlp_bias)
        self.down_proj = Linear(config.intermediate_size, config.hidden_size, config.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, D) -> (B, T, D)."""
        return self.down_proj(F.silu(self.up_proj(x)))


class Block(nn.Module):
    """Attention, then MLP; each adds a function of the normalized states to the states."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.dropout = config.residual_dropout
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = GatedFeedForward(config) if config.mlp == "swiglu" else FeedForward(config)

    def forward(
        self, x: Tensor, rotation: Rotation | None, cache: KVCache | None, documents: Documents | None
    ) -> Tensor:
        """x (B, T, D) -> (B, T, D)."""
        x = x + self._drop(self.self_attn(self.input_layernorm(x), rotation, cache, documents))
        return x + self._drop(self.mlp(self.post_attention_layernorm(x)))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout) if self.training and self.dropout else x


class Decoder(nn.Module):
    """The model without its head: tokens (B, T) -> hidden states (B, T, D)."""

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.max_positions = config.max_position_embeddings
        self.embed_tokens = Embedding(vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.rotary_emb = None if config.rope_mode == "off" else Rotary(config)

    def forward(self, tokens: Tensor, cache: KVCache | None = None, documents: Documents | None = None) -> Tensor:
        """Return the states after the last norm; the first position is the cache's length.

        Raises ValueError beyond the longest context or the cache's end, and for documents together with a cache.
        """
        length = tokens.shape[1]
        if cache is not None and documents is not None:
            raise ValueError("a cache holds one document per row: give either a cache or documents")
        start = 0 if cache is None else cache.reserve(length)
        if start + length > self.max_positions:
            last = start + length - 1
            raise ValueError(f"position {last} is beyond max_position_embeddings={self.max_positions}")
        x = self.embed_tokens(tokens)  # (B, T, D)
        rotation = None
        if self.rotary_emb is not None:
            positions = None if documents is None else documents.positions
            rotation = self.rotary_emb(start, length, x.dtype, positions)
        for layer in self.layers:
            x = layer(x, rotation, cache, documents)
        if cache is not None:
            cache.length += length
        return self.norm(x)


class Transformer(nn.Module):
    """Decoder-only transformer: tokens (B, T) -> logits (B, T, V).

    `vocab_size` may exceed the tokenizer's size; the loss and the sampler ignore the additional logits.
    """

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.config, self.vocab_size = config, vocab_size
        self.model = Decoder(config, vocab_size)
        self.lm_head = Linear(config.hidden_size, vocab_size, bias=False)
        self.tie_weights()

    def hidden(self, tokens: Tensor, cache: KVCache | None = None, documents: Documents | None = None) -> Tensor:
        """Tokens (B, T) of integers -> states after the last norm (B, T, D)."""
        return self.model(tokens, cache, documents)

    def forward(self, tokens: Tensor, cache: KVCache | None = None, documents: Documents | None = None) -> Tensor:
        """Tokens (B, T) of integers -> logits (B, T, V). With a cache, the tokens follow those of the cache.

        With `documents`, a token sees only its document, whose positions begin at 0. Raises ValueError.
        """
        return self.lm_head(self.hidden(tokens, cache=cache, documents=documents))

    def new_cache(self, batch_size: int, max_tokens: int, page_size: int | None = None) -> KVCache:
        """Make an empty cache for `batch_size` rows of up to `max_tokens` tokens, paged if `page_size` is set."""
        config, table = self.config, self.model.embed_tokens.weight
        shape = (config.num_layers, batch_size, config.num_key_value_heads, max_tokens, config.head_dim)
        if page_size is None:
            return ContiguousCache(shape, table.dtype, table.device)
        return PagedCache(shape, table.dtype, table.device, page_size)

    def init_buffers(self) -> None:
        """Restore the rotary angles and tied weights, which `materialize` discards and no file contains."""
        if self.model.rotary_emb is not None:
            self.model.rotary_emb.init_buffers()
        self.tie_weights()

    def tie_weights(self) -> None:
        """Share the embedding's weight with the head, if `tie_word_embeddings` is set."""
        if self.config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight
