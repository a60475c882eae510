"""A model as the lm-evaluation-harness wants one. Imports that library: see ``library.py``."""

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from cartesian_moe_jax.data.progress import StageBar
from cartesian_moe_jax.data.tokenizers import Tokenizer
from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.evaluation.downstream.answers import AnswerWriter, Manner, Question
from cartesian_moe_jax.evaluation.downstream.continuation import Continuation, cut_short
from cartesian_moe_jax.evaluation.downstream.scorer import Scorer
from cartesian_moe_jax.models.language_model import LanguageModel

Tokens = list[int]


OF_DRAWING = {"top_p", "top_k", "min_p"}
"""Options that mean nothing where the most likely token is taken."""
UNDERSTOOD = {"until", "max_gen_toks", "do_sample", "temperature"}


class HarnessModel(TemplateLM):
    """Answers the harness's three kinds of requests.

    A text begins behind an end-of-text token, as documents do in training. Of what is longer than
    the model's window the beginning is not seen; ``cut_short`` counts such requests.
    """

    def __init__(
        self,
        model: LanguageModel,
        tokenizer: Tokenizer,
        scorer: Scorer,
        writer: AnswerWriter,
        *,
        show: bool,
    ):
        super().__init__()
        # The harness would fork processes, which must not be done once jax is in use.
        os.environ["DISABLE_MULTIPROC"] = "1"
        self._model, self._tokenizer, self._scorer, self._writer = model, tokenizer, scorer, writer
        self._show, self.cut_short = show, 0
        self._errors = sys.stderr  # for bars, while what the harness prints is not read

    @property
    def eot_token_id(self) -> int:
        """The token that documents end with, and texts begin behind."""
        return self._tokenizer.end_of_text

    @property
    def max_length(self) -> int:
        """How many tokens the model sees."""
        return self._scorer.window

    @property
    def tokenizer_name(self) -> str:
        """What distinguishes cached requests."""
        return str(self._tokenizer.identity())

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> Tokens:
        """Return the tokens of a text, no special ones among them."""
        return self._tokenizer.encode(string).tolist()

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = True
    ) -> list[tuple[float, bool]]:
        """Return the log-likelihood of each continuation, and whether it is the most likely one."""
        return super().loglikelihood(requests, disable_tqdm=disable_tqdm)

    def loglikelihood_rolling(
        self, requests: Sequence[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Return the log-likelihood of whole texts, in the harness's windows."""
        texts = [self._tokenizer.encode(text).tolist() for (text,) in (r.args for r in requests)]
        windows = [
            (i, Continuation(*make_disjoint_window(pair)))
            for i, text in enumerate(texts)
            for pair in get_rolling_token_windows(text, self.eot_token_id, self.max_length, 1)
        ]
        scores = self._scores([window for _, window in windows])
        totals = [0.0] * len(texts)
        for (i, _), (log_likelihood, _) in zip(windows, scores, strict=True):
            totals[i] += log_likelihood
        return totals

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """Return what the model writes after texts, up to what ends an answer."""
        questions = []
        for prompt, options in (request.args for request in requests):
            manner = _manner(options)
            tokens = self._behind_end_of_text(self.tok_encode(prompt))
            self.cut_short += len(tokens) > self._writer.room(manner)
            questions.append(Question(tokens, manner))
        return self._with_bar(
            "writing",
            len(questions),
            functools.partial(self._writer.answers, self._model, questions),
        )

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[tuple[str, str], Tokens, Tokens]],
        disable_tqdm: bool = False,
        **kwargs: Any,
    ) -> list[tuple[float, bool]]:
        wholes = [
            # A pair of tokens may end beyond the context: then the text itself is scored.
            Continuation(self._behind_end_of_text(context), tokens or self.tok_encode(text))
            for (_, text), context, tokens in requests
        ]
        self.cut_short += sum(cut_short(whole, self.max_length) for whole in wholes)
        return self._scores(wholes)

    def _scores(self, continuations: Sequence[Continuation]) -> list[tuple[float, bool]]:
        scores = self._with_bar(
            "reading",
            len(continuations),
            functools.partial(self._scorer.score, self._model, continuations),
        )
        return [tuple(score) for score in scores]

    def _behind_end_of_text(self, tokens: Tokens) -> Tokens:
        return tokens if tokens[:1] == [self.eot_token_id] else [self.eot_token_id, *tokens]

    def _with_bar(self, name: str, total: int, work: Callable[..., list[Any]]) -> list[Any]:
        with (
            contextlib.redirect_stderr(self._errors),
            StageBar(name, total, "requests", show=self._show) as bar,
        ):
            return work(advance=bar.advance)


def _manner(options: dict[str, Any]) -> Manner:
    """Return how an answer is written; raises UserError for an option that would be passed over."""
    asked = normalize_gen_kwargs(options)
    temperature = float(asked.get("temperature", 0.0))
    unknown = asked.keys() - UNDERSTOOD - (set() if temperature else OF_DRAWING)
    if unknown:
        name = min(unknown)
        raise UserError(f"the task's generation_kwargs have {name}={asked[name]}: not supported")
    until = tuple(end for end in asked["until"] if end)
    return Manner(until, int(asked["max_gen_toks"]), temperature)
