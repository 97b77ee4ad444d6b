"""Operations on skills: the list, and the text of one that the user calls up."""

from collections.abc import Mapping
from pathlib import Path

import msgspec

from protocol.api.services import ReadSkill, SkillInfo, SkillText, SkillTextResult
from protocol.errors import NotFound, Unavailable
from protocol.limits import Limits
from worker.operations.decode import read
from worker.operations.table import Handler, OperationRequest, OperationResponse
from worker.processes.thread_pool import ThreadPool
from worker.skills.discovery import FILE_MAX_BYTES, read_bytes
from worker.skills.service import SkillService


class SkillOperations:
    """The handlers of `skill.…`."""

    def __init__(self, skills: SkillService, *, threads: ThreadPool, limits: Limits) -> None:
        self._skills = skills
        self._threads = threads
        self._limits = limits

    def handlers(self) -> Mapping[str, Handler]:
        return {"skill.list": self.list, "skill.read": self.read}

    async def list(self, request: OperationRequest) -> OperationResponse:
        """Look for skills again and return the usable ones."""
        await self._skills.refresh()
        infos = [
            SkillInfo(
                id=skill.path,
                name=skill.name,
                description=skill.description,
                label=f"{skill.source}:{skill.name}",
                source=skill.source,
                user_invocable=skill.user_invocable,
            )
            for skill in self._skills.latest.usable
        ]
        return OperationResponse(msgspec.json.encode(infos))

    async def read(self, request: OperationRequest) -> OperationResponse:
        """Return the whole file of a skill; no other file can be read here. Raises NotFound."""
        skill_id = read(request.body, ReadSkill).skill_id
        skill = next((skill for skill in self._skills.latest.usable if skill.path == skill_id), None)
        if skill is None:
            raise NotFound(f"cannot find skill {skill_id[:200]!r}: take an id from the list of skills")

        def content(_stop: object) -> bytes:
            return read_bytes(Path(skill.path))[:FILE_MAX_BYTES]

        try:
            data = await self._threads.run(content, timeout_s=self._limits.search_deadline_s)
        except OSError as error:
            raise Unavailable(f"cannot read skill {skill.name!r}: {error.strerror}", retryable=False) from None
        result = SkillTextResult(
            name=skill.name, description=skill.description, source=skill.source, builtin=skill.source == "system"
        )
        return OperationResponse(msgspec.json.encode(SkillText(content=data, result=result)))
