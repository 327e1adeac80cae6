"""Read settings, tokenizers and checkpoints of transformer_candle, the Rust program before Candlewick."""
