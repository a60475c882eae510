"""A finished run in words."""

from pathlib import Path
from typing import Any


def summary(result: dict[str, Any], workdir: Path) -> str:
    """Describe a result for people: perplexity beside the baseline, a sample, what to try next."""
    validation, baseline = result["validation"], result["baseline"]
    total, active = result["parameters"], result["active_parameters"]
    lines = [
        "",
        f"model        {total / 1e6:.2f} M parameters, {active / 1e6:.2f} M active per token",
        f"trained on   {result['tokens'] / 1e6:.2f} M tokens of {result['data']['corpus']} "
        f"in {result['training_seconds']:.0f} s",
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
        f"  python eval.py --workdir={workdir}",
        f"  tensorboard --logdir={workdir}",
        f"  python -c \"import cartesian_moe_jax as cmoe; lm = cmoe.load('{workdir}'); "
        "print(lm.generate('import ', max_new_tokens=200))\"",
        "  python train.py --config=configs/quickstart.py --workdir=/tmp/wider "
        "--config.model.d_model=256",
    ]
    return "\n".join(lines)
