"""Tests of candlewick.hub."""
