"""Hold the configuration of a workspace as it is now: read again when its files change, changed itself, passed on.

The files are compared when a prompt is accepted and when a turn is built. A turn that runs keeps the configuration it
was built with (W-27); a change counts from the next turn on.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Protocol, TypeVar

from protocol.api.provider import SelectedModel
from protocol.base.clock import Clock
from protocol.base.logs import set_level
from protocol.errors import BadInput
from protocol.worker_spec import WorkerSpec
from worker.config.edit import edit_file, file_of
from worker.config.files import FilesState, Object, files_state
from worker.config.load import WorkspaceConfig, load_config
from worker.config.schema import Options

T = TypeVar("T")
WRITE_S = 0.1
"""How long after a change an unreadable file is read once more."""


class FilesChanged(Exception):
    """The configuration has to be read again."""


class InThread(Protocol):
    """Runs a job in a thread and returns its result. Raises what the job raises, and TimeoutError when it hangs."""

    def __call__(self, job: Callable[[], T], /) -> Awaitable[T]: ...


ConfigListener = Callable[[WorkspaceConfig, Mapping[str, str]], None]
"""Takes a configuration and the environment for child processes. Called on the loop; must not block."""


class LiveConfig:
    """The configuration of one workspace, and every change to it."""

    def __init__(
        self,
        spec: WorkerSpec,
        config: WorkspaceConfig | BadInput,
        *,
        clock: Clock,
        log: logging.Logger,
        register_secret: Callable[[str], None],
        in_thread: InThread = asyncio.to_thread,
    ) -> None:
        """Start with `config`, the result of `read_config` or its error.

        A workspace whose configuration cannot be read is open for its history, and `problem` says why it runs no
        prompt. `register_secret` keeps a text out of every log line. `in_thread` runs a short job that reads files.
        """
        self._spec = spec
        self._clock = clock
        self._log = log
        self._register_secret = register_secret
        self._in_thread = in_thread
        self._listeners: list[ConfigListener] = []
        self._chosen: dict[str, SelectedModel] = {}
        self._reading = asyncio.Lock()  # so that an earlier reading never replaces a later one
        self.skip_permissions = spec.skip_permissions
        self._error: BadInput | None = None  # of the files as they are now
        self._is_empty = isinstance(config, BadInput)  # no configuration could be read yet
        if isinstance(config, BadInput):
            self._error, config = config, empty_config(Path(spec.data_dir))
            log.error(self._error.message)
        self._current = config
        self._compared_at = -1e9
        state = config.state
        # It was read a moment ago, hence the second.
        self._seen = state if state is not None and state.is_settled(clock.wall() - 1.0) else None
        self._apply(config)

    @property
    def current(self) -> WorkspaceConfig:
        """The configuration for the next turn."""
        return self._current

    @property
    def problem(self) -> BadInput | None:
        """Why no prompt is accepted: the files cannot be read, or the models that they ask for cannot be used."""
        return self._error or self.turn_problem

    @property
    def turn_problem(self) -> BadInput | None:
        """Why no turn can be built. When a file was made unreadable, accepted prompts run with what it said before."""
        if self._is_empty:
            return self._error
        return BadInput(self._current.model_problem) if self._current.model_problem else None

    @property
    def env(self) -> dict[str, str]:
        """The environment for child processes: that of the worker, with the configured variables over it."""
        return {**self._spec.env, **self._current.env}

    @property
    def may_allow_runs(self) -> bool:
        """Whether a prompt may say that its run needs no permission."""
        section = self._current.raw.get("permissions")
        return not isinstance(section, dict) or section.get("allow_run_policy") is not False

    @property
    def holds_choices(self) -> bool:
        """Whether clients chose something that the workspace's next worker would not know."""
        return bool(self._chosen) or self.skip_permissions != self._spec.skip_permissions

    def subscribe(self, listener: ConfigListener) -> None:
        """Call `listener` with the current configuration, and again after each change."""
        self._listeners.append(listener)
        listener(self._current, self.env)

    def check_files(self) -> None:
        """Raise FilesChanged if a file was changed, made or removed since the configuration was read.

        For any thread. Blocks for as long as some thirty calls of stat(2) take.
        """
        if self._files_state() != self._seen:
            raise FilesChanged
        self._compared_at = self._clock.now()

    async def refresh(self, max_age_s: float = 0.0) -> None:
        """Read the configuration again if a file was changed, made or removed since; `problem` has an error of it.

        Does nothing when the files were compared within the last `max_age_s` seconds.
        """
        now_s = self._clock.wall()
        if self._clock.now() - self._compared_at < max_age_s:
            return
        self._compared_at = self._clock.now()
        try:
            state = await self._in_thread(self._files_state)
        except TimeoutError:
            self._log.warning("the configuration's files do not answer; it stays as it is")
            return
        if state == self._seen:
            return
        error = await self._reloaded()
        if error is not None and not state.is_settled(now_s):
            await asyncio.sleep(WRITE_S)  # an editor may be in the middle of writing the file
            error = await self._reloaded()
        if error is not None and (self._error is None or self._error.message != error.message):
            self._log.error(error.message)
        self._error = error
        self._seen = state if state.is_settled(now_s) else None

    def _files_state(self) -> FilesState:
        return files_state(Path(self._spec.path), Path(self._spec.data_dir), self._spec.env)

    async def _reloaded(self) -> BadInput | None:
        try:
            await self.reload()
        except BadInput as error:
            return error
        return None

    async def reload(self) -> bool:
        """Read the configuration again, in a thread; return whether it has changed. Raises BadInput."""
        async with self._reading:
            return self._replace(await asyncio.to_thread(read_config, self._spec, chosen=self._chosen))

    async def edit(
        self, scope: int, change: Callable[[Object], None], *, choose: Mapping[str, SelectedModel | None] | None = None
    ) -> None:
        """Change the file of a scope and use the result, in a thread; on failure the file stays as it was.

        `choose` holds models that count from now on although a project's file says otherwise; None leaves the choice
        to the files again. Raises as `edit_file`, and BadInput for a chosen model that cannot be used.
        """
        path = file_of(scope, Path(self._spec.data_dir), self._spec.env)
        async with self._reading:
            choices = {**self._chosen, **(choose or {})}
            chosen = {kind: model for kind, model in choices.items() if model is not None}

            def attempt(tree: Object) -> WorkspaceConfig:
                config = read_config(self._spec, chosen=chosen, unwritten={path: tree})
                if config.model_problem and any(model is not None for model in (choose or {}).values()):
                    raise BadInput(config.model_problem)
                return config

            config = await asyncio.to_thread(edit_file, path, change, attempt, self._clock)
            self._chosen = chosen
            self._replace(config)

    def _replace(self, config: WorkspaceConfig) -> bool:
        self._error = None
        self._is_empty = False
        if config == self._current:
            return False
        self._current = config
        self._apply(config)
        env = self.env
        for listener in self._listeners:
            listener(config, env)
        return True

    def _apply(self, config: WorkspaceConfig) -> None:
        for secret in config.secrets:
            self._register_secret(secret)
        for warning in config.warnings:
            self._log.warning(warning)
        if config.model_problem:
            self._log.error(config.model_problem)
        set_level("debug" if self._spec.debug or config.options.debug else self._spec.log_level)


def empty_config(data_dir: Path) -> WorkspaceConfig:
    """Return a configuration without models, for a workspace whose own cannot be read."""
    return WorkspaceConfig(
        providers={},
        models={},
        allowed_tools=(),
        options=Options(),
        env={},
        hint="",
        warnings=(),
        files=(),
        secrets=(),
        data_dir=data_dir,
    )


def read_config(
    spec: WorkerSpec,
    *,
    chosen: Mapping[str, SelectedModel] | None = None,
    unwritten: Mapping[Path, Object] | None = None,
) -> WorkspaceConfig:
    """Read the configuration of a worker's workspace. Blocks. Raises BadInput.

    `chosen` and `unwritten` are those of `load_config`.
    """
    return load_config(
        Path(spec.path),
        Path(spec.data_dir),
        spec.env,
        default_model=spec.default_model,
        local_model=spec.local_model,
        chosen=chosen,
        unwritten=unwritten,
    )
