"""The tool `question`: ask the user, and return the answers to the model."""

from collections.abc import Sequence
from typing import Annotated, Any, Protocol

import msgspec
from msgspec import Meta

from protocol.api.permission import Choice, QuestionItem, QuestionResponse
from worker.toolkit.tool import ToolContext, ToolError, ToolResult, ToolSpec, description_of, read_args, schema_of

TYPES = ("yes_no", "single_choice", "multi_choice", "free_text")
CHOOSES = ("single_choice", "multi_choice")
QUESTIONS_MAX = 5
CHOICES_MIN, CHOICES_MAX = 2, 5
QUESTION_MAX_BYTES = 240
DESCRIPTION_MAX_BYTES = 600
LABEL_MAX_BYTES = 200
NOTE_ON_QUESTION = "_question"


class ChoiceArgs(msgspec.Struct, frozen=True, kw_only=True):
    """One choice."""

    id: Annotated[str, Meta(description="A short name for it, unique in its question")]
    label: Annotated[str, Meta(description="What the user sees")]
    description: Annotated[str, Meta(description="What follows from it")] = ""


class QuestionArgs(msgspec.Struct, frozen=True, kw_only=True):
    """One question."""

    type: Annotated[str, Meta(description="How it is answered", extra_json_schema={"enum": [*TYPES]})]
    question: Annotated[str, Meta(description="The question, short")]
    description: Annotated[str, Meta(description="What one must know to answer it")]
    label: Annotated[str, Meta(description="One or two words for it")] = ""
    choices: Annotated[list[ChoiceArgs], Meta(description="For the choice types: 2 to 5 answers")] = []


class QuestionToolArgs(msgspec.Struct, frozen=True, kw_only=True):
    """Arguments of `question`."""

    questions: Annotated[list[QuestionArgs], Meta(description="1 to 5 questions")]
    confirm_title: Annotated[str, Meta(description="Above the answers before they are sent")] = ""
    confirm_description: Annotated[str, Meta(description="Below that title")] = ""


class Asker(Protocol):
    """Puts questions to the user."""

    @property
    def is_available(self) -> bool:
        """Whether a client said that it can answer questions."""
        ...

    def new_id(self) -> str:
        """Return an id for a question."""
        ...

    async def ask(
        self, context: ToolContext, questions: list[QuestionItem], *, title: str, description: str
    ) -> Sequence[QuestionResponse] | None:
        """Return the answers in the order of the questions, None if the user refused. Raises ToolError if none came."""
        ...


class Question:
    """Asks the user and waits for the answers."""

    spec = ToolSpec(
        "question", description_of(__file__, "question"), schema_of(QuestionToolArgs), parallel=False, effect="read"
    )

    def __init__(self, asker: Asker) -> None:
        self._asker = asker

    async def run(self, args: dict[str, object], context: ToolContext) -> ToolResult:
        """See `question.md`."""
        batch = read_args(QuestionToolArgs, _normalized(args))
        _check(batch)
        questions = [
            QuestionItem(
                id=self._asker.new_id(),
                type=question.type,  # type: ignore[arg-type]  # checked above
                question=question.question,
                label=question.label,
                description=question.description,
                choices=[
                    Choice(id=choice.id, label=choice.label, description=choice.description)
                    for choice in question.choices
                ]
                if question.type in CHOOSES
                else [],
            )
            for question in batch.questions
        ]
        has_several = len(questions) > 1
        title = batch.confirm_title or ("Send these answers?" if has_several else "")
        description = batch.confirm_description or (
            "The agent goes on with them; you can still go back and change one." if has_several else ""
        )
        with context.without_deadline():
            answers = await self._asker.ask(context, questions, title=title, description=description)
        if answers is None:
            return ToolResult("The user did not want to answer.", is_error=True, stop_turn=True)
        texts = [_answer_text(number, *pair) for number, pair in enumerate(zip(questions, answers, strict=True), 1)]
        return ToolResult("\n\n".join(texts))


def _normalized(args: dict[str, object]) -> dict[str, Any]:
    """Accept two variants that models write: the list as a JSON text, and `options` for `choices`."""
    questions: Any = args.get("questions")
    if isinstance(questions, str):
        try:
            questions = msgspec.json.decode(questions)
        except msgspec.MsgspecError as error:
            raise ToolError(f"cannot ask: `questions` is a text that is no JSON list: {error}") from error
    if isinstance(questions, list):
        questions = [
            {**question, "choices": question["options"]}
            if isinstance(question, dict) and "options" in question and not question.get("choices")
            else question
            for question in questions
        ]
    return {**args, "questions": questions}


def _check(batch: QuestionToolArgs) -> None:
    """Raise ToolError naming the first mistake."""
    if not 1 <= len(batch.questions) <= QUESTIONS_MAX:
        raise ToolError(f"cannot ask {len(batch.questions)} questions: 1 to {QUESTIONS_MAX} in one call")
    for number, question in enumerate(batch.questions, 1):
        where = f"question {number}"
        if question.type not in TYPES:
            raise ToolError(f"cannot ask {where}: its type {question.type[:40]!r} is none of {', '.join(TYPES)}")
        _check_text(question.question, f"the text of {where}", QUESTION_MAX_BYTES)
        _check_text(question.description, f"the description of {where}", DESCRIPTION_MAX_BYTES)
        if question.type in CHOOSES:
            _check_choices(question.choices, where)


def _check_choices(choices: Sequence[ChoiceArgs], where: str) -> None:
    if not CHOICES_MIN <= len(choices) <= CHOICES_MAX:
        raise ToolError(f"cannot ask {where}: it has {len(choices)} choices; {CHOICES_MIN} to {CHOICES_MAX}")
    if len({choice.id for choice in choices}) < len(choices) or not all(choice.id for choice in choices):
        raise ToolError(f"cannot ask {where}: each of its choices needs an id of its own")
    for choice in choices:
        _check_text(choice.label, f"the label of choice {choice.id[:40]!r} of {where}", LABEL_MAX_BYTES)
        if len(choice.description.encode("utf-8", "replace")) > LABEL_MAX_BYTES:
            raise ToolError(f"cannot ask {where}: a choice's description has at most {LABEL_MAX_BYTES} bytes")


def _check_text(text: str, what: str, most: int) -> None:
    if not text.strip() or len(text.encode("utf-8", "replace")) > most:
        raise ToolError(f"cannot ask: {what} must have 1 to {most} bytes")


def _answer_text(number: int, question: QuestionItem, answer: QuestionResponse) -> str:
    """Write one answer for the model."""
    lines = [f"{number}. {question.question}"]
    if answer.yes is not None and question.type == "yes_no":
        lines.append("Answer: yes" if answer.yes else "Answer: no")
    choices = {choice.id: choice for choice in question.choices}
    chosen = [choices[choice_id] for choice_id in answer.selected_ids or () if choice_id in choices]
    if chosen:
        lines.append("Answer: " + ", ".join(f"{choice.id} ({choice.label})" for choice in chosen))
    if answer.fill_in_text.strip():
        lines.append(f"Answer in the user's words: {answer.fill_in_text.strip()}")
    if len(lines) == 1:
        lines.append("The user left this question out.")
    for key, note in (answer.notes or {}).items():
        if isinstance(note, str) and note.strip():
            about = "" if key == NOTE_ON_QUESTION else f" on {key}"
            lines.append(f"Note{about}: {note.strip()}")
    return "\n".join(lines)
