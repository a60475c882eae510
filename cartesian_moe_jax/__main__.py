"""python -m cartesian_moe_jax VERB: what can be asked from a command line, beside training."""

import argparse
import sys

from cartesian_moe_jax.config import Config
from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.process_memory import keep_freed_memory
from cartesian_moe_jax.settings import describe


def describe_config(arguments: argparse.Namespace) -> None:
    """Print every field of the configuration with default, meaning and what is allowed."""
    for line in describe(Config):
        print(line)


def generate(arguments: argparse.Namespace) -> None:
    """Print a prompt and what a trained model writes after it."""
    from cartesian_moe_jax.api import load

    lm = load(arguments.workdir, arguments.step)
    text = lm.generate(
        arguments.prompt, arguments.max_new_tokens, arguments.temperature, arguments.seed
    )
    print(text)


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the command line; ``run`` is the function of the verb."""
    parser = argparse.ArgumentParser(prog="python -m cartesian_moe_jax", description=__doc__)
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    verb = verbs.add_parser("describe_config", help=describe_config.__doc__)
    verb.set_defaults(run=describe_config)
    verb = verbs.add_parser("generate", help=generate.__doc__)
    verb.set_defaults(run=generate)
    verb.add_argument("--workdir", required=True, help="a run directory")
    verb.add_argument("--step", type=int, help="the checkpoint; the newest if not given")
    verb.add_argument("--prompt", default="def ")
    verb.add_argument("--max_new_tokens", type=int, default=200)
    verb.add_argument("--temperature", type=float, default=0.8)
    verb.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


def main() -> None:
    """Run the verb; wrong input is one line and exit status 2."""
    arguments = parse(sys.argv[1:])
    keep_freed_memory()
    try:
        arguments.run(arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
