"""Property tests have no deadline: a busy machine makes them slow, not wrong."""

from hypothesis import settings

settings.register_profile("no_deadline", deadline=None)
settings.load_profile("no_deadline")
