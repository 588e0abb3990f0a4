"""How many examples hypothesis tries where a test says nothing, and for as long as each takes on a busy machine."""

from hypothesis import settings

settings.register_profile("suite", max_examples=50, deadline=None)
settings.load_profile("suite")
