"""Log-likelihoods of many continuations, in batches of about equal numbers of tokens."""

from collections.abc import Callable, Sequence

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


class Scorer:
    """Scores continuations by a model on ``mesh``. Use it inside ``jax.set_mesh(mesh)``.

    Compiles once for each length of a few (buckets.py) that occurs. ``tokens`` is how many the
    model reads at once; ``window`` is how many it sees before each; only the first ``vocab_size``
    tokens can be the most likely one.
    """

    def __init__(self, mesh: Mesh, *, tokens: int, window: int, vocab_size: int, loss_chunk: int):
        self._mesh, self._tokens, self.window = mesh, tokens, window

        def step(
            model: LanguageModel,
            texts: Int[Array, "batch seq_plus_1"],
            scored: Bool[Array, "batch seq"],
        ) -> tuple[Float[Array, "batch"], Bool[Array, "batch"]]:
            hidden, _ = model.hidden(texts[:, :-1])
            head = model.head_in_use()
            scores = token_scores(hidden, head, texts[:, 1:], loss_chunk, vocab_size)
            likelihood = -jnp.sum(jnp.where(scored, scores.losses, 0.0), axis=1)
            return likelihood, jnp.all(scores.most_likely | ~scored, axis=1)

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
        """Return the score of each. ``advance`` is told of so many more that are read.

        All processes score the same, and get all scores. What does not fit the window: ``fitted``.
        """
        parts = [(i, part) for i, c in enumerate(continuations) for part in fitted(c, self.window)]
        # The longest first: what does not fit in memory fails at once, and only the last batch
        # has rows to spare.
        parts.sort(key=lambda numbered: -numbered[1].length)
        likelihoods = np.zeros(len(continuations))
        greedy = np.ones(len(continuations), bool)
        first = 0
        while first < len(parts):
            length = bucket(parts[first][1].length, self.window)
            rows = rows_of(self._tokens, length, len(parts), batch_parts(self._mesh))
            batch = parts[first : first + rows]
            found = self._scored(model, [part for _, part in batch], rows, length)
            for (index, _), likelihood, is_greedy in zip(batch, *found, strict=False):
                likelihoods[index] += likelihood
                greedy[index] &= is_greedy
            first += len(batch)
            advance(len(batch))
        return [Score(float(n), bool(g)) for n, g in zip(likelihoods, greedy, strict=True)]

    def _scored(
        self, model: LanguageModel, batch: Sequence[Continuation], rows: int, length: int
    ) -> tuple[Float[np.ndarray, "rows"], Bool[np.ndarray, "rows"]]:
        texts = np.zeros((rows, length + 1), np.int32)
        scored = np.zeros((rows, length), bool)
        for row, (text, mask) in zip(batch, zip(texts, scored, strict=True), strict=False):
            whole = [*row.context, *row.tokens]
            text[: len(whole)] = whole
            mask[len(row.context) - 1 : len(whole) - 1] = True
        likelihoods, greedy = self._step(model, self._placed(texts), self._placed(scored))
        return np.asarray(likelihoods), np.asarray(greedy)

    def _placed(self, rows: Shaped[np.ndarray, "batch ..."]) -> jax.Array:
        """Return one global array of rows that every process has all of."""
        where = batch_sharding(self._mesh)
        return jax.make_array_from_callback(rows.shape, where, lambda index: rows[index])
