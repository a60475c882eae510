"""Where the time of a program goes: by hand, and of a program whose parts are known."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks.breakdown import Span, breakdown, part_of, parts_of_program, self_times


@pytest.mark.parametrize(
    ("op_name", "part"),
    [
        ("jit(step)/jvp(attention)/dot_general", "attention"),
        ("jit(step)/transpose(jvp(while))/body/shared_expert/feed_forward/mul", "shared_expert"),
        ("jit(step)/while/body/add", "other"),
        ("jit(headless)/add", "other"),
    ],
)
def test_parts_of_operations(op_name, part):
    assert part_of(op_name) == part


def test_a_fusion_has_the_part_of_most_of_what_it_calls():
    text = """HloModule jit_step
%fused (p: f32[3]) -> f32[3] {
  %p = f32[3]{0} parameter(0)
  %a = f32[3]{0} sine(%p), metadata={op_name="jit(step)/router/sin" stack_frame_id=1}
  %b = f32[3]{0} add(%a, %a), metadata={op_name="jit(step)/router/add"}
  ROOT %c = f32[3]{0} add(%b, %a), metadata={op_name="jit(step)/norm/add"}
}
ENTRY %main.1 (x.1: f32[3]) -> f32[3] {
  %x.1 = f32[3]{0} parameter(0), metadata={op_name="x"}
  %y = f32[3]{0} copy(%x.1)
  ROOT %fusion.2 = f32[3]{0} fusion(%y), kind=kLoop, calls=%fused
}
"""
    parts = parts_of_program(text)
    assert parts["fusion.2"] == "router" and parts["c"] == "norm" and parts["y"] == "other"


def test_spans_within_a_span_are_not_its_own():
    """A loop from 0 to 10 with two turns of an addition, the second with a call within."""
    spans = [
        Span("add", 5.0, 4.0),
        Span("loop", 0.0, 10.0),
        Span("add", 1.0, 3.0),
        Span("call", 6.0, 2.0),
        Span("after", 10.0, 1.0),
    ]
    assert self_times(spans) == {"loop": [3.0], "add": [3.0, 2.0], "call": [2.0], "after": [1.0]}


def test_shares_of_a_program():
    """One part is a loop of matrix products, the other an addition."""

    def program(x):
        with jax.named_scope("experts"):
            x = jax.lax.fori_loop(0, 8, lambda i, y: jnp.sin(y @ y), x)
        with jax.named_scope("norm"):
            return x + 1

    x = jnp.ones((128, 128))
    compiled = jax.jit(program).lower(x).compile()
    shares = breakdown(compiled, lambda: compiled(x), times=3)
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["experts"] > 0.5 > shares["norm"]
