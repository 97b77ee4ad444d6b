"""How much a worker writes into its log: what the server said, or everything where debugging was asked for."""

from collections.abc import Mapping

from protocol.base.logs import set_level
from worker.config.load import Config
from worker.toolkit.extension import Service


class Verbosity(Service):
    """Follows `options.debug`; `level` is the server's, `debug` was asked for by who made the workspace."""

    def __init__(self, level: str, *, debug: bool) -> None:
        self._level = level
        self._debug = debug

    def configure(self, config: Config, env: Mapping[str, str]) -> None:
        """Take the option of this configuration."""
        set_level("debug" if self._debug or config.options.debug else self._level)
