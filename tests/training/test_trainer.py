"""What trains a model: its programs are those of every other run that computes the same."""

import math

import jax
import pytest

from cartesian_moe_jax import config as schema
from cartesian_moe_jax.data.tokenizers import resolve_tokenizer
from cartesian_moe_jax.models.vocabulary import with_vocabulary
from cartesian_moe_jax.training.loop import prepare
from cartesian_moe_jax.training.trainer import Trainer, check_trainable
from tests import processes, tiny
from tests.messages import message_of


def trainer_of(folder, fields):
    tokenizer = resolve_tokenizer("bytes", "")
    on_all = {"parallel": {"data": -1}}
    config = schema.read(processes.values(folder, **tiny.merged(on_all, fields)))
    config = with_vocabulary(config, tokenizer.vocab_size)
    return Trainer(config, prepare(config, tokenizer))


def first_batch(trainer):
    batches = trainer.batches(0)
    tokens = trainer.place(next(batches))
    batches.close()
    return tokens


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """The programs of a run whose config differs in some fields: its first state, its step."""
    folder = tmp_path_factory.mktemp("trainer")

    def of(**fields):
        trainer = trainer_of(folder, fields)
        with jax.set_mesh(trainer.mesh):
            tokens = first_batch(trainer)
            step = trainer.jitted_step.lower(trainer.abstract, tokens, trainer.rates)
        return trainer.jitted_create_state.lower(trainer.seed).as_text(), step.as_text()

    return of


@pytest.fixture(scope="module")
def plain(programs):
    return programs()


@pytest.mark.parametrize(
    "fields",
    [
        {"training": {"seed": 3}},
        {"optimizer": {"learning_rate": 0.5, "expert_rate": 4.0}},
    ],
    ids=["seed", "rates"],
)
def test_runs_with_other_seeds_or_rates_share_their_programs(programs, plain, fields):
    assert programs(**fields) == plain


def test_other_steps_are_another_program(programs, plain):
    """The schedule is part of the step: the comparison above is no accident."""
    other = programs(training={"steps": 24})
    assert other[0] == plain[0] and other[1] != plain[1]


@pytest.mark.parametrize("layout", ["fsdp", "expert_fsdp"])
def test_bfloat16_trains_and_evaluates_where_parameters_are_split(tmp_path, layout):
    """XLA for CPU can end the process over these programs: see compiler_options."""
    sizes = {"layout": layout, "data": -1, "fsdp": 2, "expert": 1 + (layout == "expert_fsdp")}
    half = {"model": {"compute_dtype": "bfloat16"}, "evaluation": {"max_tokens": 300}}
    trainer = trainer_of(tmp_path, {"parallel": sizes, **half})
    with jax.set_mesh(trainer.mesh):
        state, report = trainer.step(trainer.create_state(), first_batch(trainer))
        evaluation = trainer.evaluator.perplexity(state.parameters)
    uniform = math.log(trainer.config.model.vocab_size)
    assert abs(report.loss - uniform) < 0.2
    assert abs(evaluation.mean.loss - uniform) < 0.2


@pytest.mark.parametrize(
    ("parallel", "model", "words"),
    [
        ({"layout": "expert", "expert": 4}, {"moe": {"num_experts": 6}}, "experts=6 is not"),
        ({"layout": "tensor", "tensor": 2}, {"d_ff": 25}, "d_ff=25 is not divisible"),
        ({"rules": "d_model=fsdp,d_ff=fsdp", "fsdp": 2}, {}, "'fsdp' would split both"),
    ],
)
def test_a_layout_that_does_not_fit_is_found_before_data_is_prepared(parallel, model, words):
    config = tiny.config(model=model, parallel={"data": -1} | parallel)
    assert words in message_of(check_trainable, config)
