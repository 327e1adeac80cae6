"""Objective, update, loop, evaluation and what is reported of them."""
