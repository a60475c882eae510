"""python -m cartesian_moe_jax VERB: what can be asked from a command line, beside training."""

import argparse
import dataclasses
import json
import logging
import os
import re
import sys
import time
from collections.abc import Callable

from cartesian_moe_jax.cache import cache_folder
from cartesian_moe_jax.config import Config, DataConfig
from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.process_memory import keep_freed_memory
from cartesian_moe_jax.settings import describe


def describe_config(arguments: argparse.Namespace) -> None:
    """Print every field of the configuration with default, meaning and what is allowed."""
    for line in describe(Config):
        print(line)


def prepare(arguments: argparse.Namespace) -> None:
    """Read and tokenise the data of a config; training does it too where it is missing."""
    from cartesian_moe_jax.data.prepared import prepare_data
    from cartesian_moe_jax.data.tokenizers import resolve_tokenizer, tokenizer_label

    data = _data_config(arguments)
    started = time.monotonic()
    tokenizer = resolve_tokenizer(data.tokenizer, data.end_of_text)
    prepared = prepare_data(data, tokenizer, _data_cache(data), show=True)
    print(f"tokenizer   {tokenizer_label(tokenizer.identity())}")
    print(*prepared.lines(), sep="\n")
    parts = (*prepared.train, *prepared.validation)
    for corpus in {part.tokens.corpus.directory: part.tokens.corpus for part in parts}.values():
        print(f"packed      {corpus.directory}  in {corpus.metadata['seconds']:.1f} s")
    print(f"ready after {time.monotonic() - started:.1f} s")


def train_tokenizer(arguments: argparse.Namespace) -> None:
    """Train a byte-level BPE tokenizer on the training text of a corpus."""
    from cartesian_moe_jax.data.samples import training_texts
    from cartesian_moe_jax.data.tokenizers import train_bpe
    from cartesian_moe_jax.paths import as_path

    data = _data_config(arguments)
    started = time.monotonic()
    counts = [0, 0]

    def count(documents: int, num_bytes: int) -> None:
        counts[:] = documents, num_bytes

    texts = training_texts(data, _data_cache(data), arguments.max_bytes, show=True)
    size = train_bpe(texts, arguments.vocab_size, as_path(arguments.to), progress=count)
    print(
        f"{arguments.to}: {size:,} tokens from {counts[0]:,} documents, {counts[1]:,} bytes, "
        f"in {time.monotonic() - started:.1f} s"
    )
    if size < arguments.vocab_size:
        print(f"the corpus has too few pairs of tokens for {arguments.vocab_size:,}")


def budget(arguments: argparse.Namespace) -> None:
    """Print what a model costs, by part; with --all_methods, what each method costs."""
    from cartesian_moe_jax.models.cost import model_cost, whole
    from cartesian_moe_jax.models.cost_table import cost_table
    from cartesian_moe_jax.models.methods import METHODS
    from cartesian_moe_jax.paths import as_path, write_atomically

    if arguments.all_methods:
        presets = {name: _with_method(arguments.config_arguments, name) for name in METHODS}
        costs = {name: whole(model_cost(_config(rest))) for name, rest in presets.items()}
    else:
        costs = model_cost(_config(arguments.config_arguments))
        costs["all"] = whole(costs)
    print(cost_table(costs))
    if arguments.json:
        values = {name: cost._asdict() for name, cost in costs.items()}
        write_atomically(as_path(arguments.json), json.dumps(values, indent=1) + "\n")


def _with_method(arguments: list[str], method: str) -> list[str]:
    """Return the arguments with another METHOD in --config=FILE:SIZE,METHOD."""
    changed = [re.sub(r"^(--config=.+:\w+),\w+$", rf"\1,{method}", a) for a in arguments]
    if not any(re.search(r"^--config=.+:\w+,\w+$", a) for a in arguments):
        raise UserError("--all_methods needs --config=FILE:SIZE,METHOD, as configs/paper.py takes")
    return changed


def generate(arguments: argparse.Namespace) -> None:
    """Print a prompt and what a trained model writes after it."""
    from cartesian_moe_jax.api import load

    lm = load(arguments.workdir, arguments.step, arguments.tokenizer)
    text = lm.generate(
        arguments.prompt, arguments.max_new_tokens, arguments.temperature, arguments.seed
    )
    print(text)


def convert(arguments: argparse.Namespace) -> None:
    """Write a run's checkpoint in the official format, or such a checkpoint as a run."""
    from cartesian_moe_jax.interop.convert import convert as convert_folder
    from cartesian_moe_jax.paths import as_path

    source, target = as_path(arguments.source), as_path(arguments.to)
    given = {name: getattr(arguments, name) for name in ("step", "tokenizer", "dtype")}
    lines = convert_folder(source, target, **given)
    print(*lines, sep="\n")


def study(arguments: argparse.Namespace) -> None:
    """Tune, train and compare the methods of a preset, and write one report."""
    from cartesian_moe_jax.paths import as_path
    from cartesian_moe_jax.training.memory import take_memory

    if not (arguments.config_arguments or arguments.report_only):
        raise UserError("study needs a preset: --config=configs/study.py:smoke, or :cpu, or :gpu")
    config = _config(arguments.config_arguments)
    given = {name: getattr(arguments, name) for name in ("methods", "seeds", "bases")}
    changed = {name: value for name, value in given.items() if value is not None}
    config = dataclasses.replace(config, study=dataclasses.replace(config.study, **changed))
    if not arguments.report_only:
        take_memory(config.model)
    from cartesian_moe_jax.study.command import run_study

    merged = [as_path(folder) for folder in arguments.merge.split(",") if folder]
    run_study(config, as_path(arguments.workdir), merged, report_only=arguments.report_only)


def tune(arguments: argparse.Namespace) -> None:
    """Measure the kernels of the experts on this GPU; training takes the fastest from then on."""
    from cartesian_moe_jax.kernels.tune_command import Grid, run_tune
    from cartesian_moe_jax.paths import as_path

    given = {name: getattr(arguments, name) for name in Grid._fields}
    grid = Grid(**{name: tuple(sizes) for name, sizes in given.items() if sizes})
    run_tune(grid, as_path(arguments.to) if arguments.to else None)


def compare_layouts(arguments: argparse.Namespace) -> None:
    """Compile a preset's training step in every layout, for chips that need not be here."""
    from cartesian_moe_jax.study.layouts.command import Options, run_comparison

    given = vars(arguments)
    options = Options(**{name: given[name] for name in Options._fields})
    name = next(
        (a for a in arguments.config_arguments if a.startswith("--config=")), "the defaults"
    )
    run_comparison(_config(arguments.config_arguments), name.removeprefix("--config="), options)


def _data_config(arguments: argparse.Namespace) -> DataConfig:
    """Return config.data of the --config arguments, the defaults without them."""
    data = _config(arguments.config_arguments).data
    corpus = getattr(arguments, "corpus", None) or data.corpus
    return dataclasses.replace(data, corpus=corpus, workers=arguments.workers or data.workers)


def _config(arguments: list[str]) -> Config:
    """Return the config of --config arguments, that of all defaults without them."""
    try:
        from configs import base, flags
    except ImportError:
        raise UserError("presets lie in configs/: run this in the project's folder") from None
    if not any(argument.split("=")[0] == "--config" for argument in arguments):
        arguments = [f"--config={base.__file__}", *arguments]
    return flags.config_of(arguments)


def _data_cache(data: DataConfig) -> str:
    return os.fspath(cache_folder(data.cache_dir, "data"))


Verb = Callable[[argparse.Namespace], None]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m cartesian_moe_jax", description=__doc__)
    verbs = parser.add_subparsers(metavar="VERB", required=True)

    def add(
        run: Verb, *, takes_config: bool = False, works: bool = False
    ) -> argparse.ArgumentParser:
        usage = f"%(prog)s [options]{' [--config=FILE --config.data.FIELD=VALUE ...]'}"
        verb = verbs.add_parser(
            run.__name__,
            help=run.__doc__,
            description=run.__doc__,
            usage=usage if takes_config else None,
            allow_abbrev=False,
        )
        verb.set_defaults(run=run, takes_config=takes_config)
        if works:
            verb.add_argument("--workers", type=int, default=0, help="processes; 0: one a core")
        return verb

    add(describe_config)
    add(prepare, takes_config=True, works=True)
    verb = add(budget, takes_config=True)
    verb.add_argument("--all_methods", action="store_true", help="in place of the preset's METHOD")
    verb.add_argument("--json", help="a file to write the numbers to")
    verb = add(train_tokenizer, takes_config=True, works=True)
    verb.add_argument("--corpus", help="in place of config.data.corpus")
    verb.add_argument("--vocab_size", type=int, required=True)
    verb.add_argument("--to", required=True, help="the tokenizer.json to write")
    verb.add_argument("--max_bytes", type=int, default=10**9, help="of text, evenly sampled")
    _add_sampling(add(generate))
    verb = add(study, takes_config=True)
    verb.add_argument("--workdir", default="runs/study", help="records, runs and the report")
    verb.add_argument("--methods", help="in place of config.study.methods")
    verb.add_argument("--seeds", help="in place of config.study.seeds")
    verb.add_argument("--bases", help="in place of config.study.bases")
    verb.add_argument("--merge", default="", help="other --workdirs whose records are taken in")
    verb.add_argument("--report_only", action="store_true", help="of records: no text, no preset")
    verb = add(compare_layouts, takes_config=True)
    verb.add_argument("--target", required=True, help="cpu:8, local, tpu:v5p:4x4x4, gpu:h200:1x8")
    verb.add_argument("--layouts", default="", help="names joined by commas; all if not given")
    verb.add_argument("--exchanges", default="", help="tried in turn, in place of the layouts' own")
    verb.add_argument("--search", action="store_true", help="try other meshes too")
    verb.add_argument("--run", dest="measured", action="store_true", help="and time it: cpu, local")
    verb.add_argument("--json", default="", help="a file to write the numbers to")
    verb.add_argument("--picture", default="", help="an SVG file to draw the table to")
    verb.add_argument("--python", default="", help="that compiles: with jax[cuda13], for gpu")
    verb.add_argument("--workers", type=int, default=0, help="processes that compile; 0: two")
    _add_sizes(add(tune))
    verb = add(convert)
    verb.add_argument("--from", dest="source", required=True, help="a run, or an official one")
    verb.add_argument("--to", required=True, help="a folder that is not there yet")
    verb.add_argument("--step", type=int, help="of a run's checkpoints; the newest if not given")
    verb.add_argument("--tokenizer", default="", help="bytes, or a path, if none lies in --from")
    verb.add_argument("--dtype", default="float32", help="of official tensors; or bfloat16")
    return parser


def _add_sampling(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--workdir", required=True, help="a run, or an official checkpoint")
    verb.add_argument("--step", type=int, help="the checkpoint; the newest if not given")
    verb.add_argument("--tokenizer", default="", help="of an official checkpoint without one")
    verb.add_argument("--prompt", default="def ")
    verb.add_argument("--max_new_tokens", type=int, default=200)
    verb.add_argument("--temperature", type=float, default=0.8)
    verb.add_argument("--seed", type=int, default=0)


def _add_sizes(verb: argparse.ArgumentParser) -> None:
    for name, meaning in (
        ("rows", "pairs of tokens and experts on one device"),
        ("experts", "on one device"),
        ("d_model", "width of the model"),
        ("d_expert", "width of an expert"),
    ):
        verb.add_argument(f"--{name}", type=_sizes, help=f"{meaning}; several are joined by commas")
    verb.add_argument("--to", default="", help="a file, in place of the one that is used")


def _sizes(text: str) -> list[int]:
    """Read sizes joined by commas."""
    if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", text):
        raise argparse.ArgumentTypeError(f"{text!r}: numbers from 1, joined by commas")
    return [int(size) for size in text.split(",")]


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the command line; ``run`` is the function of the verb."""
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    if rest and not arguments.takes_config:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    arguments.config_arguments = rest
    return arguments


def main() -> None:
    """Run the verb; wrong input is one line and exit status 2."""
    arguments = parse(sys.argv[1:])
    keep_freed_memory()
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # libraries' warnings beside our one line
    try:
        arguments.run(arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped: the same command continues", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
