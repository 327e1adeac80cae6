"""Text to documents to token shards to batches."""
