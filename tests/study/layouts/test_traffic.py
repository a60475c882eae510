"""Bytes that programs move: of compiled ones whose bytes are known, and of what TPUs write."""

import jax
import jax.numpy as jnp
import pytest

from cartesian_moe_jax.study.layouts.program import read_program
from cartesian_moe_jax.study.layouts.traffic import moved_bytes

KILO = 4 * 1024
"""Bytes of 1,024 numbers in float32."""


def moved(function, *shapes):
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return moved_bytes(read_program(jax.jit(function).lower(*arrays).compile().as_text()))


def test_operands_and_results_of_one_kernel():
    assert moved(lambda a, b: jnp.sin(a) + b, (1024,), (1024,)) == 3 * KILO


def test_what_is_sliced_counts_and_not_what_it_is_sliced_from():
    def third(stack):
        return jnp.sin(jax.lax.dynamic_index_in_dim(stack, 3, keepdims=False))

    assert moved(third, (64, 1024)) <= 2.1 * KILO


def test_a_loop_counts_as_often_as_it_repeats():
    def layers(x, weights):
        return jax.lax.scan(lambda x, w: (jnp.sin(x) * w, None), x, weights)[0]

    once, often = (moved(layers, (1024,), (n, 1024)) for n in (10, 20))
    # A layer reads x and its slice, and writes x; counters are small.
    assert 10 * 3 * KILO <= often - once <= 10 * 3.1 * KILO


def test_a_loop_fills_its_stack_in_place():
    def layers(length):
        def body(x, _):
            x = jnp.sin(x)
            return x, x

        return moved(lambda x: jax.lax.scan(body, x, None, length=length)[1], (1024,))

    # In a layer x is read and written, and maybe copied; it comes into the stack, which has zeros
    # first. Were the stack itself read and written, twice as many layers would move four times.
    once, often = layers(20), layers(40)
    assert 20 * 4 * KILO <= often - once <= 20 * 8 * KILO


ON_CHIP = "bf16[512,128]{1,0:T(8,128)(2,1)S(1)}"
IN_MEMORY = "bf16[512,128]{1,0:T(8,128)(2,1)}"
TPU = f"""HloModule jit_step, is_scheduled=true

%fused (p0: bf16[512,128], p1: f32[512,128]) -> f32[512,128] {{
  %p0 = {ON_CHIP} parameter(0)
  %p1 = f32[512,128]{{1,0:T(8,128)}} parameter(1)
  ROOT %sum = f32[512,128]{{1,0:T(8,128)}} add(%p1, %p1)
}}

ENTRY %main (a: bf16[512,128], b: f32[512,128]) -> f32[512,128] {{
  %a = {IN_MEMORY} parameter(0)
  %b = f32[512,128]{{1,0:T(8,128)}} parameter(1)
  %s = ({ON_CHIP}, {IN_MEMORY}, u32[]{{:S(2)}}) copy-start(%a)
  %d = {ON_CHIP} copy-done(%s)
  ROOT %f = f32[512,128]{{1,0:T(8,128)}} fusion(%d, %b), kind=kLoop, calls=%fused
}}
"""


def test_what_lies_on_chip_is_read_once_from_memory():
    bf16, f32 = 2 * 512 * 128, 4 * 512 * 128
    assert moved_bytes(read_program(TPU)) == bf16 + 2 * f32


@pytest.mark.parametrize(("into", "arrays"), [(ON_CHIP, 1), (IN_MEMORY, 2)])
@pytest.mark.parametrize("whole", ["bf16[4096,128]{1,0}", "bf16[4096,128]{1,0:S(1)}"])
def test_of_a_slice_that_is_fetched_only_that_is_read(whole, into, arrays):
    text = f"""HloModule jit_step

ENTRY %main (a: bf16[4096,128]) -> bf16[512,128] {{
  %a = {whole} parameter(0)
  %s = (({whole}), {into}, s32[]{{:S(2)}}) slice-start(%a), slice={{[0:512], [0:128]}}
  ROOT %d = {into} slice-done(%s)
}}
"""
    reads = 0 if "S(1)" in whole else 1
    assert moved_bytes(read_program(text)) == (reads + arrays - 1) * 2 * 512 * 128


@pytest.mark.parametrize("opcode", ["dynamic-update-slice", "gather", "custom-call"])
def test_kernels_of_their_own(opcode):
    text = f"""HloModule jit_step

ENTRY %main (a: f32[64,1024], b: f32[1024], i: s32[]) -> f32[64,1024] {{
  %a = f32[64,1024]{{1,0}} parameter(0)
  %b = f32[1,1024]{{1,0}} parameter(1)
  %i = s32[] parameter(2)
  ROOT %r = f32[{1 if opcode == "gather" else 64},1024]{{1,0}} {opcode}(%a, %b, %i)
}}
"""
    expected = {"dynamic-update-slice": 2 * KILO, "gather": 2 * KILO, "custom-call": 129 * KILO + 4}
    assert moved_bytes(read_program(text)) == expected[opcode]
