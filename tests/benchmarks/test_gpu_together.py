"""Parts of the GPU benchmark that compile their programs at once: what they measure, in what order.

One that cannot be compiled is one line, and the others are measured.
"""

import dataclasses
import sys
import threading

import jax
import pytest

from benchmarks.gpu import clock, decode, layer, parity, sizes, step
from benchmarks.gpu.context import Context
from benchmarks.gpu.record import Record
from benchmarks.gpu.sizes import REHEARSAL
from benchmarks.timing import Case
from cartesian_moe_jax.kernels.blocks import Block
from cartesian_moe_jax.kernels.leg_trials import compile_run, feed_forward_legs, run_of
from cartesian_moe_jax.kernels.plain import PLAIN
from cartesian_moe_jax.kernels.timings import Choice

REASON = "NotImplementedError: not here"
LARGER = sizes.Layer(32, 2, 6, 16, 8)


@pytest.fixture
def context(tmp_path):
    return Context(REHEARSAL, Record(tmp_path / "part.json"), tmp_path, sys.executable)


def refuse(*_, **__):
    raise NotImplementedError("not here")


def case(*_, **__):
    return Case("", lambda: None, 40, 0.5, flops=1e6)


def watch(part, context, monkeypatch):
    """Return how much was measured and how much was wanted when a part has compiled a batch."""
    seen = []

    def together(makes):
        made = clock.together(makes)
        seen.append((len(context.record.measurements), len(made)))
        return made

    monkeypatch.setattr(part, "together", together)
    return seen


def test_what_is_made_together_keeps_its_order_and_its_errors(monkeypatch):
    monkeypatch.setattr(clock, "THREADS", 2)
    both = threading.Barrier(2, timeout=30)

    def make():
        both.wait()
        return 7

    assert clock.together([make, make]) == [7, 7]
    assert clock.together([refuse, lambda: 1, refuse]) == [REASON, 1, REASON]


def test_what_cannot_be_compiled_or_run_has_no_time():
    assert clock.time_case(REASON, 1e-3) == REASON
    assert clock.measure(1e-3, refuse) == REASON
    broken = dataclasses.replace(case(), run=refuse)
    assert clock.time_case(broken, 1e-3) == REASON
    assert clock.measure(1e-3, lambda x: x + 1, jax.numpy.ones(3)) > 0


def test_a_program_that_does_not_fit_is_not_run(monkeypatch):
    monkeypatch.setattr(clock, "memory_limit", lambda: 1e9)
    large = dataclasses.replace(case(), run=refuse, temporary_bytes=2_000_000_000)
    assert clock.time_case(large, 1e-3) == "it would need 2 GB beside its operands"


def test_layers_are_timed_before_what_xla_expands_is_compiled(context, monkeypatch):
    monkeypatch.setattr(layer, "compile_case", case)
    two = dataclasses.replace(REHEARSAL, layers=(*REHEARSAL.layers, LARGER))
    seen = watch(layer, context, monkeypatch)
    layer.run(context._replace(sizes=two))
    assert seen == [(0, 8), (8, 3), (11, 3)]
    found = [(m["what"], m["by"], m["experts"]) for m in context.record.measurements]
    first = [
        (what, by, experts)
        for what in ("layer", "experts")
        for experts in (4, 6)
        for by in ("dense twin", "ours")
    ]
    expanded = [("layer", "backend ragged")]
    expanded += [("experts", by) for by in ("backend ragged", "ragged_dot")]
    assert found == first + [(*each, experts) for experts in (4, 6) for each in expanded]
    names = {"ms", "temporary_bytes", "to_twin", "tflops"}
    assert all(
        set(m) == {*LARGER._fields, "what", "by", *names} for m in context.record.measurements
    )


def test_a_layer_that_does_not_compile_is_one_line(context, monkeypatch):
    """The twins of what is left are what ratios are relative to."""
    tried = []

    def compile_case(*_):
        tried.append(1)
        return case() if len(tried) != 1 else refuse()

    monkeypatch.setattr(clock, "THREADS", 1)
    monkeypatch.setattr(layer, "compile_case", compile_case)
    layer.run(context)
    broken, ours, *others = context.record.measurements
    assert broken["none"] == REASON and "ms" not in broken
    assert "ms" in ours and "to_twin" not in ours
    assert len(others) == 5 and all("to_twin" in m for m in others if m["what"] == "experts")


def test_texts_of_all_forms_but_the_expanded_are_timed_first(context, monkeypatch):
    built = []

    def writing_model(form):
        built.append(form.moe.backend)
        return object() if form.moe.backend != "ragged" else refuse()

    monkeypatch.setattr(decode, "writing_model", writing_model)
    monkeypatch.setattr(decode, "next_token_case", case)
    seen = watch(decode, context, monkeypatch)
    two = dataclasses.replace(REHEARSAL, texts=(sizes.Texts(8, 1), sizes.Texts(8, 2)))
    decode.run(context._replace(sizes=two))
    assert seen == [(0, 2), (0, 4), (4, 1), (4, 2)]
    found = context.record.measurements
    names = ["dense twin", "base cartesian", "base cartesian, backend ragged"]
    assert [(m["what"], m["texts"]) for m in found] == [(n, t) for n in names for t in (1, 2)]
    assert [m.get("none") for m in found] == [None] * 4 + [REASON] * 2
    assert built.count("ragged") == 1 and all(m["to_twin"] > 0 for m in found[:4])


def test_a_step_that_does_not_compile_is_tried_at_the_next_batch(context, monkeypatch):
    def step_case(name, config):
        fails = config.training.batch_size == 8 and name != "dense twin"
        return refuse() if fails else case(), None

    monkeypatch.setattr(step, "step_case", step_case)
    step.run(context._replace(sizes=dataclasses.replace(REHEARSAL, batches=(8, 4))))
    assert context.record.content["notes"][0] == f"base cartesian, batch 8: {REASON}"
    model, twin = context.record.measurements
    assert (model["batch"], twin["batch"], twin["what"]) == (4, 4, "dense twin")
    assert model["compile_seconds"] == twin["compile_seconds"] == 0.5


def test_every_block_is_checked_on_one_kind_of_groups(context, monkeypatch):
    blocks = [Block(32, 32, 32, 4, stages) for stages in (1, 2)]
    tried = [Choice(by, block) for by in ("hopper", "triton") for block in blocks]
    tried.append(Choice("tokamax_triton", None))
    monkeypatch.setattr(parity, "choices", lambda *_: tried)

    def compile_choice(shape, choice, arguments):
        return compile_run(run_of(shape, PLAIN), arguments)

    monkeypatch.setattr(parity, "compile_choice", compile_choice)
    shape = feed_forward_legs(64, 4, 64, 32, "float32")[0]
    with parity.ThreadPoolExecutor(2) as pool:
        parity.begin_leg(pool, shape, every_block=True)(context.record)
    found = [(m["groups"], m["by"].split()[0]) for m in context.record.measurements]
    first = [("unaligned", choice.backend) for choice in tried]
    others = [
        (groups, by)
        for groups in ("single rows, empty", "one hot")
        for by in ("hopper", "triton", "tokamax_triton")
    ]
    assert found == first + others
    assert all(m["result"] == "PASS" for m in context.record.measurements)


def test_experts_that_cannot_be_compiled_fail_and_the_rest_is_checked(context, monkeypatch):
    monkeypatch.setattr(parity, "grouped_feed_forward", refuse)
    parity.run(context)
    found = context.record.measurements
    (wrong,) = [m for m in found if m["result"] == "FAIL"]
    assert (wrong["what"], wrong["reason"]) == ("experts", REASON)
    assert found[-1]["what"] == "attention: d value"
