"""Files of the Hugging Face Hub: listed once at a pinned commit, fetched whole, verified by hash, retried."""
