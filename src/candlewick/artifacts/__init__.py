"""Folders with manifests: their format, how one is made once, and the lock on a run."""
