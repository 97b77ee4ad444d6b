"""Follow the messages of a workspace on a stream with `deltas=1`, as a client of the HTTP API does."""

from typing import Any


class DeltaReader:
    """The messages as a client knows them: whole ones replace, deltas append."""

    def __init__(self) -> None:
        self.messages: dict[str, dict[str, Any]] = {}
        self.deltas = 0
        self.skipped = 0  # deltas that did not continue what was there

    def take(self, event: dict[str, Any]) -> None:
        """Apply one event: its decoded envelope."""
        kind, payload = event["type"], event["payload"]["payload"]
        if kind == "message":
            if event["payload"]["type"] == "deleted":
                self.messages.pop(payload["id"], None)
            else:
                self.messages[payload["id"]] = payload
        elif kind == "message_delta":
            self.deltas += 1
            message = self.messages.get(payload["message_id"])
            if message is None or payload["part"] >= len(message["parts"]):
                self.skipped += 1
                return
            data = message["parts"][payload["part"]]["data"]
            if len(data[payload["field"]]) != payload["at"]:
                self.skipped += 1
                return
            data[payload["field"]] += payload["text"]
