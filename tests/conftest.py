"""Hypothesis runs the same examples every time; `--hypothesis-profile explore` draws new ones."""

from hypothesis import settings

settings.register_profile("fixed", derandomize=True, deadline=None, max_examples=40)
settings.register_profile("explore", deadline=None, max_examples=500)
settings.load_profile("fixed")
