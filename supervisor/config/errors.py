"""Define the error for a configuration that cannot be used."""


class ConfigError(Exception):
    """The configuration cannot be used; the text says why and what would be right. The server exits with code 2."""
