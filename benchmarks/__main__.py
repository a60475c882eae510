"""The benchmarks by name: python -m benchmarks NAME [FLAGS], or without a name, what there is."""

import runpy
import sys

from cartesian_moe_jax.errors import UserError

BENCHMARKS = {
    "suite": "all of those below that need no run: tables in one page, JSON, a picture",
    "experts": "grouped experts against one dense feed-forward on the same rows",
    "layer": "the Cartesian Product Layer against its dense twin and the sum of its parts",
    "scaling": "cost against 8 to 256 experts, 1k to 64k tokens, 1 to 4 sub-layers",
    "step": "a training step against that of its dense twin; --breakdown: time by part",
    "decode": "writing text: the next token against that of the dense twin",
    "layouts": "a training step in each layout, on virtual devices, against `data`",
    "startup": "import, first step of a run cold and warm, compile time as depth doubles",
    "against_pytorch": "layers and training step against PyTorch's (an environment of its own)",
    "gpu": "one NVIDIA GPU: parity, peaks, kernels, layers, step, PyTorch, in one page",
    "tpu_schedule": "how the compiler for TPUs schedules our kernels, without a TPU",
    "data": "preparing text and loading tokens",
    "curve": "the loss curves of runs as a picture",
    "curve_distance": "how far the loss curves of runs lie apart",
    "learning_speed": "how much of the loss a step takes away through each group of weights",
    "token_routing": "how much of the routing the token alone tells",
}


def main() -> None:
    """Run the benchmark that is named; wrong input is one line and exit status 2."""
    name = sys.argv[1] if sys.argv[1:] else ""
    if name not in BENCHMARKS:
        lines = [f"{known:16} {meaning}" for known, meaning in BENCHMARKS.items()]
        said = [f"error: there is no benchmark {name!r}"] if name else []
        print(*said, "python -m benchmarks NAME [--help]:", *lines, sep="\n", file=sys.stderr)
        sys.exit(2)
    del sys.argv[1]
    try:
        runpy.run_module(f"benchmarks.{name}", run_name="__main__", alter_sys=True)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
