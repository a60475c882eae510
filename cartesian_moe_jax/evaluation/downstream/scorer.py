"""Log-likelihoods of many continuations, in batches of about equal numbers of tokens."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, Shaped

from cartesian_moe_jax.compiler_options import step_options
from cartesian_moe_jax.evaluation.downstream.buckets import bucket, rows_of
from cartesian_moe_jax.evaluation.downstream.continuation import Continuation, Score, fitted
from cartesian_moe_jax.models.cross_entropy import token_scores
from cartesian_moe_jax.models.language_model import LanguageModel
from cartesian_moe_jax.parallel.mesh import batch_parts, batch_sharding, replicated

Advance = Callable[[int], None]
Numbered = tuple[int, Continuation]

FEW = 16
"""Tokens of a continuation that is scored beside others as short."""


class Targets(NamedTuple):
    """Which tokens of each text are scored; the rest of each row is padding."""

    tokens: Int[Array, "batch scored"] | Int[np.ndarray, "batch scored"]
    positions: Int[Array, "batch scored"] | Int[np.ndarray, "batch scored"]
    """Of the tokens before them."""
    is_one: Bool[Array, "batch scored"] | Bool[np.ndarray, "batch scored"]


class _Size(NamedTuple):
    """Of a batch, which one program is compiled for."""

    rows: int
    length: int
    scored: int


class Scorer:
    """Scores continuations by a model on ``mesh``. Use it inside ``jax.set_mesh(mesh)``.

    Compiles for each length of a few (buckets.py) that occurs, at most twice. ``tokens`` is how
    many the model reads at once, ``window`` how many it sees before each; only the first
    ``vocab_size`` tokens can be the most likely one.
    """

    def __init__(self, mesh: Mesh, *, tokens: int, window: int, vocab_size: int, loss_chunk: int):
        self._mesh, self._tokens, self.window = mesh, tokens, window

        def step(
            model: LanguageModel, texts: Int[Array, "batch seq"], asked: Targets
        ) -> tuple[Float[Array, "batch"], Bool[Array, "batch"]]:
            hidden, _ = model.hidden(texts)
            before = jnp.take_along_axis(hidden, asked.positions[..., None], axis=1)
            head = model.head_in_use()
            # As many logits at a time as of a batch of whole windows.
            chunk = max(1, loss_chunk * (tokens // window) // len(texts))
            scores = token_scores(before, head, asked.tokens, chunk, vocab_size)
            likelihood = -jnp.sum(jnp.where(asked.is_one, scores.losses, 0.0), axis=1)
            return likelihood, jnp.all(scores.most_likely | ~asked.is_one, axis=1)

        # Replicated, so that every process can read the whole of it.
        self._step = jax.jit(
            step, out_shardings=replicated(mesh), compiler_options=step_options(mesh)
        )

    def score(
        self,
        model: LanguageModel,
        continuations: Sequence[Continuation],
        advance: Advance = lambda count: None,
    ) -> list[Score]:
        """Return the score of each. ``advance`` is told of so many more that are done.

        All processes score the same, and get all scores. What does not fit the window: ``fitted``.
        """
        parts = [(i, part) for i, c in enumerate(continuations) for part in fitted(c, self.window)]
        likelihoods = np.zeros(len(continuations))
        greedy = np.ones(len(continuations), bool)
        left = Counter(index for index, _ in parts)
        for batch, size in self._batches(parts):
            found = self._scored(model, [part for _, part in batch], size)
            for (index, _), likelihood, is_greedy in zip(batch, *found, strict=False):
                likelihoods[index] += likelihood
                greedy[index] &= is_greedy
            left.subtract(index for index, _ in batch)
            advance(sum(not left[index] for index in {index for index, _ in batch}))
        return [Score(float(n), bool(g)) for n, g in zip(likelihoods, greedy, strict=True)]

    def _batches(self, parts: list[Numbered]) -> Iterator[tuple[list[Numbered], _Size]]:
        """Yield parts, and the size of their batch, until all have been yielded.

        The longest first: what does not fit in memory fails at once, and only the last batch has
        rows to spare. Those that score few tokens by themselves: they need few logits.
        """
        few = [numbered for numbered in parts if len(numbered[1].tokens) <= FEW]
        many = [numbered for numbered in parts if len(numbered[1].tokens) > FEW]
        for group in (many, few):
            group.sort(key=lambda numbered: -numbered[1].length)
            first = 0
            while first < len(group):
                length = bucket(group[first][1].length, self.window)
                rows = rows_of(self._tokens, length, len(group), batch_parts(self._mesh))
                scored = min(FEW, length) if group is few else length
                yield group[first : first + rows], _Size(rows, length, scored)
                first += rows

    def _scored(
        self, model: LanguageModel, batch: Sequence[Continuation], size: _Size
    ) -> tuple[Float[np.ndarray, "rows"], Bool[np.ndarray, "rows"]]:
        texts = np.zeros((size.rows, size.length), np.int32)
        asked = Targets(
            *(np.zeros((size.rows, size.scored), kind) for kind in (np.int32, np.int32, bool))
        )
        for row, part in enumerate(batch):
            texts[row, : part.length] = [*part.context, *part.tokens][:-1]
            count = len(part.tokens)
            asked.tokens[row, :count] = part.tokens
            asked.positions[row, :count] = np.arange(part.length - count, part.length)
            asked.is_one[row, :count] = True
        narrow = Targets(*(self._placed(each) for each in asked))
        likelihoods, greedy = self._step(model, self._placed(texts), narrow)
        return np.asarray(likelihoods), np.asarray(greedy)

    def _placed(self, rows: Shaped[np.ndarray, "batch ..."]) -> jax.Array:
        """Return one global array of rows that every process has all of."""
        where = batch_sharding(self._mesh)
        return jax.make_array_from_callback(rows.shape, where, lambda index: rows[index])
