"""Break the control tokens of chat templates in texts, and join them again in what the model writes.

Many hosts of open-weight models read a literal `<|im_start|>` in a message as the real control token, so that a tool
result could begin a turn of another role. A zero-width joiner after the first character prevents that: no tokenizer
matches the token then. The model may copy the joiner, or write another invisible character for it; both are removed
from its answer, so that a file that it edits keeps the literal token.

The list of tokens and the list of models whose hosts do not read them are those of pydantic-ai 2.68
(`pydantic_ai/_special_tokens.py`, `profiles/_special_tokens.py`; MIT).
"""

import re

JOINER = "\u200d"
_TAILS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("<", ("start_of_turn>", "end_of_turn>")),
    (
        "[",
        (
            "|system|]",
            "|tool|]",
            "|assistant|]",
            "|user|]",
            "|endofturn|]",
            "INST]",
            "/INST]",
            "SYSTEM_PROMPT]",
            "/SYSTEM_PROMPT]",
            "AVAILABLE_TOOLS]",
            "/AVAILABLE_TOOLS]",
            "TOOL_RESULTS]",
            "/TOOL_RESULTS]",
            "TOOL_CALLS]",
            "e~[",
        ),
    ),
    ("]", ("~b]", "~!b[")),
)
_NAME = r'[^\s<>|"\u200b-\u200d\u2060\ufeff]'
_WIDE_NAME = r'[^\s<>｜"\u200b-\u200d\u2060\ufeff]'
_NAMED = rf"\|{_NAME}{{1,64}}\|>|｜{_WIDE_NAME}{{1,64}}｜>|\|[a-z_]{{1,32}}>|[a-z_]{{1,32}}\|>"
_SHAPES = (("<", _NAMED), *((re.escape(first), "|".join(map(re.escape, tails))) for first, tails in _TAILS))
_INVISIBLE = r"(?:[\u200b\u200c\u200d\u2060\ufeff])"
_ESCAPED = r"(?:[\u200b\u200c\u200d\u2060\ufeff]|\\u200[b-dB-D]|\\u2060|\\u[fF][eE][fF][fF])"
_TOKEN = re.compile("|".join(f"{first}(?={tails})" for first, tails in _SHAPES))
_BROKEN = re.compile("|".join(f"(?<={first}){_INVISIBLE}(?={tails})" for first, tails in _SHAPES))
_BROKEN_IN_JSON = re.compile("|".join(f"(?<={first}){_ESCAPED}(?={tails})" for first, tails in _SHAPES))
_POSSIBLE = re.compile(rf"(?<=[<\[\]]){_INVISIBLE}")
_TAIL_PREFIX = re.compile(
    rf"\|{_NAME}{{0,64}}\|?|｜{_WIDE_NAME}{{0,64}}｜?|[a-z_]{{0,32}}\|?|"
    + "|".join(re.escape(tail[:end]) for _, tails in _TAILS for tail in tails for end in range(1, len(tail)))
)
_CLOSED = (
    *("claude", "cohere-", "command", "gemini", "grok", "muse-", "nova-", "sonar"),
    *("chatgpt", "codex", "computer-use", "dall-e", "ft:", "gpt-", "o1", "o3", "o4", "omni-", "sora", "text-", "tts-"),
    "whisper",
)


def reads_special_tokens(model_id: str) -> bool:
    """Return whether a host of this model may read control tokens in the content of messages."""
    name = model_id.lower().removeprefix("~").rpartition("/")[2]
    return not name.startswith(_CLOSED) or name.startswith("gpt-oss")


def break_tokens(text: str) -> str:
    """Return the text with a joiner after the first character of each control token."""
    return _TOKEN.sub(lambda match: match[0] + JOINER, text)


def join_tokens_in_json(text: str) -> str:
    """Return the JSON text with the joiners removed, also those that are written as escapes."""
    return text if text.isascii() and "\\u" not in text else _BROKEN_IN_JSON.sub("", text)


class TokenJoiner:
    """Removes the joiners from a text that arrives in pieces. Only text from a possible joiner on is held back."""

    def __init__(self) -> None:
        self._held = ""
        self._before = ""

    def feed(self, text: str) -> str:
        """Return what is certain of the text so far and was not returned before."""
        if not self._held and text.isascii():
            self._before = text[-1:] or self._before
            return text
        whole = _BROKEN.sub("", self._before + self._held + text)
        starts = (match.start() for match in _POSSIBLE.finditer(whole) if _TAIL_PREFIX.fullmatch(whole, match.end()))
        end = next(starts, len(whole))
        certain, self._held = whole[len(self._before) : end], whole[end:]
        self._before = certain[-1:] or self._before
        return certain

    def end(self) -> str:
        """Return what was held back: it was no token."""
        held, self._held = self._held, ""
        self._before = held[-1:] or self._before
        return held
