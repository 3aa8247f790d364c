"""How fast the training is, against other frameworks and the machine's floor; no timing without a check."""
