"""Stories for children from a grammar of our own: text whose probabilities are known exactly."""
