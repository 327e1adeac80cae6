"""What keeps files of other programs working; nothing else imports it."""
