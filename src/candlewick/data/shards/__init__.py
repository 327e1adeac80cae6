"""Text to text shards."""
