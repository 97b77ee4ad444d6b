"""Build the events of OpenAI's Responses API for the scripted provider: items in sequence, each opened and closed."""

from typing import Any

Event = dict[str, Any]


class ResponseEvents:
    """Track one response; each method returns the next events of it."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._number = 0
        self._items = 0
        self._text: str | None = None  # text of the open message item
        self.usage: Event = {
            "input_tokens": 11,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": 7,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 18,
        }

    def begin(self) -> list[Event]:
        return [self._event("response.created", response=self._response("in_progress"))]

    def text(self, text: str) -> list[Event]:
        events = []
        if self._text is None:
            self._text = ""
            item = {"type": "message", "id": self._id("msg"), "role": "assistant", "status": "in_progress"}
            events.append(self._item("added", item | {"content": []}))
        self._text += text
        position = {"item_id": self._id("msg"), "output_index": self._items, "content_index": 0}
        events.append(self._event("response.output_text.delta", **position, delta=text, logprobs=[]))
        return events

    def end_text(self) -> list[Event]:
        if self._text is None:
            return []
        text, self._text = self._text, None
        content = [{"type": "output_text", "text": text, "annotations": []}]
        item = {"type": "message", "id": self._id("msg"), "role": "assistant", "status": "completed"}
        done = self._item("done", item | {"content": content})
        self._items += 1
        return [done]

    def call(self, call_id: str, name: str, arguments: str) -> list[Event]:
        events = self.end_text()
        item_id = self._id("fc")
        item = {"type": "function_call", "id": item_id, "call_id": call_id, "name": name}
        position = {"item_id": item_id, "output_index": self._items}
        events.append(self._item("added", item | {"arguments": "", "status": "in_progress"}))
        events.append(self._event("response.function_call_arguments.delta", **position, delta=arguments))
        events.append(self._event("response.function_call_arguments.done", **position, arguments=arguments, name=name))
        events.append(self._item("done", item | {"arguments": arguments, "status": "completed"}))
        self._items += 1
        return events

    def reasoning(self, item_id: str, summaries: list[str], encrypted: str) -> list[Event]:
        events = self.end_text()
        item = {"type": "reasoning", "id": item_id, "summary": []}
        events.append(self._item("added", item))
        for index, text in enumerate(summaries):
            position = {"item_id": item_id, "output_index": self._items, "summary_index": index}
            events.append(self._event("response.reasoning_summary_text.delta", **position, delta=text))
            events.append(self._event("response.reasoning_summary_text.done", **position, text=text))
        parts = [{"type": "summary_text", "text": text} for text in summaries]
        events.append(self._item("done", item | {"summary": parts, "encrypted_content": encrypted}))
        self._items += 1
        return events

    def end(self, status: str = "completed") -> list[Event]:
        response = self._response(status) | {"usage": self.usage}
        return [*self.end_text(), self._event(f"response.{status}", response=response)]

    def _id(self, kind: str) -> str:
        return f"{kind}_{self._items}"

    def _item(self, change: str, item: Event) -> Event:
        return self._event(f"response.output_item.{change}", output_index=self._items, item=item)

    def _response(self, status: str) -> Event:
        return {
            "id": "resp_1",
            "object": "response",
            "created_at": 1,
            "model": self._model,
            "status": status,
            "output": [],
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        }

    def _event(self, kind: str, **values: Any) -> Event:
        self._number += 1
        return {"type": kind, "sequence_number": self._number, **values}
