"""Reports on runs, settings, tokenizers and the machine."""
