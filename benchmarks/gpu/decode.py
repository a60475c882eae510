"""How fast does the paper's model write: a token for each of some texts, by what was kept of them.

Against its dense twin, and against the same model whose experts are XLA's `ragged_dot`. Weights
are in the compute dtype, as for texts from a trained model. Half of the window is filled.
"""

import dataclasses

import jax

from benchmarks.decode import next_token_case, writing_model
from benchmarks.gpu.clock import REPEATS
from benchmarks.gpu.context import Context, model_config
from benchmarks.gpu.sizes import Texts
from benchmarks.step import dense_twin
from cartesian_moe_jax.config import Config, ModelConfig
from cartesian_moe_jax.kernels.leg_trials import time_run
from cartesian_moe_jax.kernels.tuning import one_line
from cartesian_moe_jax.models.language_model import LanguageModel


def run(context: Context) -> None:
    """Time a token of every text, at every number of texts, by every form of the model."""
    sizes = context.sizes
    config = model_config(sizes, 1, sizes.seq_len)
    name = " ".join(sizes.model)
    forms = {
        "dense twin": dense_twin(config).model,
        name: config.model,
        f"{name}, backend ragged": with_backend(config, "ragged"),
    }
    twins: dict[Texts, float] = {}
    for what, form in forms.items():
        model = writing_model(form)
        for texts in sizes.texts:
            done = _time(context, model, texts)
            found = {"what": what, **texts._asdict()}
            if isinstance(done, str):
                context.record.add(**found, none=done)
                continue
            twin = twins.setdefault(texts, done)
            rates = {"ms": done, "tokens_per_s": 1e3 * texts.texts / done, "to_twin": done / twin}
            context.record.add(**found, **rates)
    context.record.note("the most likely token of each text, weights in the compute dtype")


def with_backend(config: Config, backend: str) -> ModelConfig:
    """The model with other kernels of its experts."""
    moe = dataclasses.replace(config.model.moe, backend=backend)
    return dataclasses.replace(config.model, moe=moe)


def _time(context: Context, model: LanguageModel, texts: Texts) -> float | str:
    """The milliseconds of a token of every text, or why they cannot be had."""
    try:
        case = next_token_case("token", model, texts.texts, texts.window)
        return time_run(case.run, (), context.sizes.seconds, REPEATS)
    except jax.errors.JaxRuntimeError as error:
        return one_line(error)
