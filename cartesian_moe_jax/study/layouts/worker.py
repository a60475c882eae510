"""The process that compiles for a target: a line of JSON in for each case, a row out.

python -m cartesian_moe_jax.study.layouts.worker TARGET PID_OF_WHO_ASKS
"""

import json
import os
import sys
import threading
import time

from cartesian_moe_jax.config import read
from cartesian_moe_jax.parallel.targets import parse_target
from cartesian_moe_jax.study.layouts.case import compare_case


def main() -> None:
    """Answer until the input ends, or who asks is gone."""
    threading.Thread(target=_leave_with, args=(int(sys.argv[2]),), daemon=True).start()
    # Compilers print what they like to file 1: the rows go where it went, it goes to file 2.
    rows = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    target = parse_target(sys.argv[1])
    for line in sys.stdin:
        case = json.loads(line)
        row = compare_case(read(case["config"]), target, run=case["run"])
        print(row.to_json(), file=rows, flush=True)


def _leave_with(parent: int) -> None:
    """End when the parent has: a compilation may have minutes to go, for nobody."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


if __name__ == "__main__":
    main()
