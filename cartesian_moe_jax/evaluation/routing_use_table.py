"""A measured use of experts in words."""

from typing import Any

import numpy as np


def routing_use_table(result: dict[str, Any]) -> str:
    """Return a row for each MoE sub-layer, and one for each pair of successive sub-layers.

    ``result`` is what ``routing_use_of_run`` returns. Loads are relative to even use.
    """
    load, composed = np.asarray(result["load"]), result["composed_experts"]
    relative = load / load.mean(-1, keepdims=True)
    lines = [
        f"{result['tokens']:,} tokens, {load.shape[-1]} experts in each sub-layer",
        f"{'layer':>5}  {'sub-layer':>9}  {'busiest':>7}  {'idlest':>7}  "
        f"{'effective experts':>17}  {'experts per token':>17}",
    ]
    for i, layer in enumerate(result["layers"]):
        for s, loads in enumerate(relative[i]):
            lines.append(
                f"{layer:5}  {s:9}  {loads.max():6.2f}x  {loads.min():6.2f}x  "
                f"{result['effective_experts'][i][s]:17.2f}  "
                f"{result['experts_per_token'][i][s]:17.2f}"
            )
    if load.shape[1] > 1:
        lines.append(
            f"{'layer':>5}  {'pair':>9}  {'effective composed experts':>26}  "
            f"{'were choices independent':>24}  {'mutual information':>18}"
        )
    for i, layer in enumerate(result["layers"]):
        for s, effective in enumerate(composed["effective"][i]):
            of_all = f"{effective:.2f} of {composed['possible']}"
            lines.append(
                f"{layer:5}  {f'{s} and {s + 1}':>9}  {of_all:>26}  "
                f"{composed['independent'][i][s]:24.2f}  "
                f"{composed['mutual_information'][i][s]:13.4f} nats"
            )
    return "\n".join(lines)
