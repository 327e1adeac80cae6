"""The whole path as stages that are skipped when up to date."""
