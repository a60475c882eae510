"""A finished run in words."""

import sys
from pathlib import Path
from typing import Any

from cartesian_moe_jax.paths import AnyPath


def summary(result: dict[str, Any], workdir: AnyPath) -> str:
    """Describe a result for people: perplexity beside the baseline, a sample, what to try next."""
    validation, baseline = result["validation"], result["baseline"]
    python = _python()
    total, active = result["parameters"], result["active_parameters"]
    lines = [
        "",
        f"model        {total / 1e6:.2f} M parameters, {active / 1e6:.2f} M active per token",
        f"trained on   {result['tokens'] / 1e6:.2f} M tokens of "
        f"{_shortened(result['data']['corpus'])} in {result['training_seconds']:.0f} s",
        *_beginning(result),
        f"validation   perplexity {validation['perplexity']:.3f} per token, "
        f"{validation['bits_per_byte']:.3f} bits per byte",
    ]
    if baseline:
        lines.append(f"baseline     {baseline['bits_per_byte']:.3f} bits per byte: a 3-gram model")
    lines += [
        "",
        "sample",
        *(f"  | {line}" for line in result["sample"].splitlines()),
        "",
        f"run          {workdir}",
        "",
        "try next",
        f"  {python} eval.py --workdir={workdir}",
        f"  {python} -m cartesian_moe_jax generate --workdir={workdir} --prompt='import '",
        f"  {python} train.py --config=configs/quickstart.py --workdir=runs/wider "
        "--config.model.d_model=256",
        f"  tensorboard --logdir={workdir}   (pip install tensorboard)",
    ]
    return "\n".join(lines)


def _python() -> str:
    """Return how to call this interpreter from the current folder."""
    executable, here = Path(sys.executable), Path.cwd()
    return str(executable.relative_to(here)) if executable.is_relative_to(here) else "python"


def _beginning(result: dict[str, Any]) -> list[str]:
    initial = result.get("initial")
    return [f"begun with   step {initial['step']} of {initial['from']}"] if initial else []


def _shortened(corpus: str) -> str:
    return corpus if len(corpus) <= 60 else f"{corpus[:57]}..."
