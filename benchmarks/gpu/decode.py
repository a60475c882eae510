"""How fast does the paper's model write: a token for each of some texts, by what was kept of them.

Against its dense twin, and against the same model whose experts are XLA's `ragged_dot`. Weights
are in the compute dtype, as for texts from a trained model. Half of the window is filled.
"""

import dataclasses
import functools
from collections.abc import Mapping

from benchmarks.decode import next_token_case, writing_model
from benchmarks.gpu.clock import time_case, together
from benchmarks.gpu.context import Context, model_config
from benchmarks.gpu.sizes import Texts
from benchmarks.step import dense_twin
from benchmarks.timing import Case
from cartesian_moe_jax.config import Config, ModelConfig
from cartesian_moe_jax.models.language_model import LanguageModel


def run(context: Context) -> None:
    """Time a token of every text, by every form of the model, at every number of texts.

    What XLA expands comes last: it takes long to compile.
    """
    sizes = context.sizes
    config = model_config(sizes, 1, sizes.seq_len)
    name = " ".join(sizes.model)
    twins: dict[Texts, float] = {}
    _time_forms(context, {"dense twin": dense_twin(config).model, name: config.model}, twins)
    _time_forms(context, {f"{name}, backend ragged": with_backend(config, "ragged")}, twins)
    context.record.note("the most likely token of each text, weights in the compute dtype")


def _time_forms(
    context: Context, forms: Mapping[str, ModelConfig], twins: dict[Texts, float]
) -> None:
    """Time forms of the model, the dense twin first, whose times are kept in ``twins``."""
    models = together(functools.partial(writing_model, form) for form in forms.values())
    wanted = [
        (what, texts, functools.partial(_case, model, texts))
        for what, model in zip(forms, models, strict=True)
        for texts in context.sizes.texts
    ]
    cases = together(make for *_, make in wanted)
    for (what, texts, _), case in zip(wanted, cases, strict=True):
        done = time_case(case, context.sizes.seconds)
        found = {"what": what, **texts._asdict()}
        if isinstance(done, str):
            context.record.add(**found, none=done)
            continue
        twin = twins.setdefault(texts, done)
        rates = {"ms": done, "tokens_per_s": 1e3 * texts.texts / done, "to_twin": done / twin}
        context.record.add(**found, **rates)


def _case(model: LanguageModel | str, texts: Texts) -> Case | str:
    """A token of every text; of a model that cannot be had, why."""
    if isinstance(model, str):
        return model
    return next_token_case("token", model, texts.texts, texts.window)


def with_backend(config: Config, backend: str) -> ModelConfig:
    """The model with other kernels of its experts."""
    moe = dataclasses.replace(config.model.moe, backend=backend)
    return dataclasses.replace(config.model, moe=moe)
