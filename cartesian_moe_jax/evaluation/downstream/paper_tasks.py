"""The downstream tasks of the paper's Table 2."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple


class Table(NamedTuple):
    """A CSV with other names of columns than the harness's."""

    columns: Mapping[str, str]
    """The harness's names."""
    numbers: tuple[str, ...]
    """Those, of the harness's, that are whole numbers."""


class PaperTask(NamedTuple):
    """A task as the harness has it, and how the paper asks it."""

    file: str
    """Its definition, in the harness's folder of tasks."""
    metric: str
    """What the paper reports of it."""
    shots: int = 0
    """Solved examples before each question. Ours for the three that are answered freely, where the
    paper says few; five are what the authors' other papers take."""
    by_chance: float = 0.0
    """The metric of a choice at random."""
    repairs: Mapping[str, Any] = MappingProxyType({})
    """Fields of the definition that need another value; see ``_ANSWERS_OF_WEBQS``."""
    table: Table | None = None
    """The form in which its rows are given out, where that is a table."""


_ANSWERS_OF_WEBQS = {
    "sampler": "default",
    "doc_to_target": "answers",
    "doc_to_choice": None,
}
"""Or version 0.4.13 fails on WebQs' examples, each of which has several answers; it takes one. Only
where there are examples: without, the definition is the harness's."""

_STORY_CLOZE = {
    "InputStoryid": "story_id",
    **{f"InputSentence{i}": f"input_sentence_{i}" for i in (1, 2, 3, 4)},
    **{f"RandomFifthSentenceQuiz{i}": f"sentence_quiz{i}" for i in (1, 2)},
    "AnswerRightEnding": "answer_right_ending",
}

PAPER_TASKS: Mapping[str, PaperTask] = MappingProxyType(
    {
        "hellaswag": PaperTask("hellaswag/hellaswag.yaml", "acc", by_chance=0.25),
        "lambada_openai": PaperTask("lambada/lambada_openai.yaml", "acc"),
        "piqa": PaperTask("piqa/piqa.yaml", "acc", by_chance=0.5),
        "storycloze_2016": PaperTask(
            "storycloze/storycloze_2016.yaml",
            "acc",
            by_chance=0.5,
            table=Table(MappingProxyType(_STORY_CLOZE), ("answer_right_ending",)),
        ),
        "winogrande": PaperTask("winogrande/default.yaml", "acc", by_chance=0.5),
        "triviaqa": PaperTask("triviaqa/default.yaml", "exact_match", shots=5),
        "webqs": PaperTask(
            "webqs/webqs.yaml",
            "exact_match",
            shots=5,
            repairs=MappingProxyType({"fewshot_config": _ANSWERS_OF_WEBQS}),
        ),
        "nq_open": PaperTask("nq_open/nq_open.yaml", "exact_match", shots=5),
    }
)
