"""Rows of downstream tasks, of our own making."""

import json

from cartesian_moe_jax.evaluation.downstream.definitions import defined
from cartesian_moe_jax.evaluation.downstream.library import as_its_command_does, library

GOALS = ("add two", "sum up", "def", "return a + b")
PIQA = [
    {"goal": goal, "sol1": "first " * (1 + i), "sol2": f"return a + {i}", "label": i % 2}
    for i, goal in enumerate(GOALS)
]
LAMBADA = [{"text": f"def add_{i}(a, b): return a + b"} for i in range(3)]
QUESTIONS = [{"question": f"what is {i}", "answer": [f"{i}", "many"]} for i in range(3)]
EXAMPLES = [{"question": f"what was {i}", "answer": [f"{i}"]} for i in range(6)]
WEBQS = [{"question": f"who is {i}", "answers": [f"{i}93", f"the {i}"]} for i in range(7)]
ROWS = {
    "piqa": {"validation": PIQA},
    "lambada_openai": {"test": LAMBADA},
    "nq_open": {"validation": QUESTIONS, "train": EXAMPLES},
    "webqs": {"test": WEBQS[:2], "train": WEBQS[1:]},
}


def write(folder):
    """Write the rows as ``tasks_data`` wants them."""
    for task, splits in ROWS.items():
        (folder / task).mkdir()
        for split, lines in splits.items():
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (folder / task / f"{split}.jsonl").write_text(text)
    return folder


def responses(model, rows):
    """What a model of the harness answers to every request of our tasks, without examples."""
    found = {}
    with defined([*ROWS], rows, 0) as tasks:
        for task in tasks:
            with as_its_command_does():
                done = library("evaluator").evaluate(model, task.loaded, bootstrap_iters=0)
            found[task.name] = [
                each[0] for sample in done["samples"][task.name] for each in sample["resps"]
            ]
    return found
