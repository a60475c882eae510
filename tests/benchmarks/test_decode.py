"""The benchmark of writing: what it runs is what generation runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.decode import measure, next_token_case, table_rows, writing_model
from cartesian_moe_jax.models.parameters import named_parameters
from tests import tiny

CONFIG = tiny.config()


def test_every_run_writes_a_token_of_each_text():
    model = writing_model(CONFIG.model)
    case = next_token_case("model", model, texts=3, window=8)
    lengths = []
    for _ in range(3):
        tokens, cache = jax.tree.map(np.asarray, case.run())
        assert tokens.shape == (3,) and np.all(tokens < CONFIG.model.vocab_size)
        lengths.append(cache.length.tolist())
    assert lengths == [[5] * 3, [6] * 3, [7] * 3]


def test_weights_are_those_of_writing():
    config = tiny.config(model={"compute_dtype": "bfloat16"})
    dtypes = {n: v.dtype for n, v in named_parameters(writing_model(config.model)).items()}
    assert dtypes["head"] == jnp.bfloat16 and dtypes["norm/gain"] == jnp.float32


@pytest.mark.long
def test_the_table_compares_with_the_twin():
    timings = measure(CONFIG, texts=2, rounds=2)
    rows = {row[0]: row for row in table_rows(2, timings)}
    assert set(rows) == {"model", "dense twin", "model, whole window"}
    assert rows["dense twin"][4] == "1.00" and {row[1] for row in rows.values()} == {"2"}
