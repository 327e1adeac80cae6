"""Everything of transformer_candle, the Rust program: its settings, tokenizers, checkpoints."""
