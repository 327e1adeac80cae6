"""Candlewick: from raw text to a trained transformer that runs everywhere."""

__version__ = "0.1.0"
