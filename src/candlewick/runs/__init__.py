"""Whole runs: prepared, trained, evaluated, sampled."""
