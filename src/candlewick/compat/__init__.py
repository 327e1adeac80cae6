"""What keeps files of other programs working; only the command line imports it."""
