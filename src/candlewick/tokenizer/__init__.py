"""Tokenizers: byte-level BPE, from text to token ids and back."""
