"""Mutants: one line of the package is broken at a time, and the tests have to notice."""
