"""Every claim of the paper as a check, and `verify`, which runs them."""
