"""Where sentences come from: a grammar whose probabilities are known, or text."""
