"""The decoder-only transformer: mathematics only."""
