"""Checkpoint folders: Hugging Face models that training can go on from."""
