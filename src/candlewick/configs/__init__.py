"""Profiles: only what differs from the defaults."""
