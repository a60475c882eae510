"""The configuration, and its manual: every field with its meaning, unit, default and check.

A preset in configs/ overrides these defaults; ``--config.model.d_model=256`` overrides a preset.
"Ours" marks what the CartesianMoE paper (arXiv 2410.16077) leaves open.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.relations import relations
from cartesian_moe_jax.settings import (
    Check,
    above,
    at_least,
    between,
    from_dict,
    from_to_below,
    mesh_size,
    one_of,
    section,
    setting,
    span,
)


@dataclasses.dataclass(frozen=True)
class MoEConfig:
    """Which layers are mixtures of experts, and what each of them is made of."""

    first_layer: int = setting(0, "Layers before this one are dense.", at_least(0))
    interval: int = setting(
        2, "From first_layer on, every interval-th layer is MoE; 0: none is.", at_least(0)
    )
    offset: int = setting(
        0, "The first MoE layer is first_layer + offset (below interval).", at_least(0)
    )
    layer: str = setting(
        "cartesian",
        "What these layers are: cartesian (sub-layers of experts), or stacked (sub-layers that are "
        "plain feed-forwards of width d_expert, a control).",
    )
    sublayers: int = setting(
        2, "MoE sub-layers in sequence; the paper has 2, and 1 is a plain MoE layer.", at_least(1)
    )
    num_experts: int = setting(16, "E, routed sub-experts in each sub-layer.", at_least(1))
    router: str = setting(
        "softmax_top_k",
        "Chooses a token's sub-experts: softmax_top_k, top_p (a varying number), hash (by token).",
    )
    top_k: int = setting(
        2, "k, sub-experts that each token uses in each sub-layer; top_p does not.", at_least(1)
    )
    top_p: float = setting(
        0.4, "Of router top_p: the probability that a token's sub-experts must pass.", between(0, 1)
    )
    table_per_sublayer: bool = setting(
        False, "Of router hash: a table for each sub-layer in place of one for the whole model."
    )
    d_expert: int = setting(
        1536, "Hidden width of one sub-expert; the paper has d_ff / 2.", at_least(1)
    )
    shared_expert: bool = setting(
        True, "A shared expert of width d_expert in each sub-layer, mixed by a learned coefficient."
    )
    shared_feed_forwards: int = setting(
        1, "Feed-forwards of width d_expert whose mean is the shared expert.", at_least(1)
    )
    shared_expert_not_in: str = setting(
        "",
        "Sub-layers left without their shared expert (an ablation): numbers from 0, as in 0,2.",
        Check(lambda v: re.fullmatch(r"(\d+(,\d+)*)?", v), "numbers joined by commas, or nothing"),
    )
    balance_loss: float = setting(
        0.01, "Coefficient of the load-balance loss, summed over sub-layers (ours).", at_least(0)
    )
    z_loss: float = setting(
        0.0, "Coefficient of the router z-loss, summed over sub-layers (ours).", at_least(0)
    )
    backend: str = setting(
        "auto",
        "Kernel of the routed experts: auto (mosaic on TPU, by_leg on GPU, native on CPU), native "
        "(compiled from C++ on first use; auto is tiled where there is no compiler), tiled, "
        "mosaic, megablox, triton, by_leg (the fastest measured of ours and tokamax), ragged, "
        "or reference (slow: a dense loop).",
    )

    def without_shared_expert(self) -> tuple[int, ...]:
        """Read ``shared_expert_not_in``."""
        return tuple(int(number) for number in self.shared_expert_not_in.split(",") if number)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The decoder. The defaults are the paper's Base model (842M parameters, 247M active)."""

    d_model: int = setting(768, "Width of the residual stream.", at_least(2))
    num_layers: int = setting(12, "Transformer layers.", at_least(1))
    num_heads: int = setting(12, "Attention heads; must divide d_model evenly.", at_least(1))
    d_ff: int = setting(3072, "Hidden width of the dense feed-forward layers.", at_least(1))
    activation: str = setting(
        "swiglu", "Of all feed-forwards: swiglu, geglu, reglu (gated), gelu, relu (plain)."
    )
    vocab_size: int = setting(
        0, "Rows of embedding and head; 0: the tokenizer's, padded to 128.", at_least(0)
    )
    rms_norm_eps: float = setting(1e-5, "Added to the mean square in RMSNorm.", above(0))
    rope_base: float = setting(10_000.0, "Base of the rotary position angles.", above(1))
    init_std: float = setting(0.01, "Standard deviation of all initial weights.", above(0))
    compute_dtype: str = setting(
        "auto",
        "Of activations and matmuls: auto is bfloat16 on accelerators, float32 on CPU. There "
        "float32 products have jax's default precision, but for routers and experts: for all bits "
        "set JAX_DEFAULT_MATMUL_PRECISION=float32.",
        one_of("auto", "float32", "bfloat16"),
    )
    remat: str = setting(
        "none",
        "What the backward pass recomputes: none, dots (all but matmuls), attention (all but "
        "attention, where that is a kernel: on accelerators), full (all).",
    )
    unroll: int = setting(
        1,
        "Repetitions of a pattern of layers that the loop over layers computes in one step. 1 "
        "compiles fastest; 0 is all of them and no loop, which copies what remat keeps into and "
        "out of itself: faster steps and less memory without remat, for a longer compilation.",
        at_least(0),
    )
    loss_chunk: int = setting(
        512, "Positions per sequence whose logits exist at once in the loss.", at_least(1)
    )
    moe: MoEConfig = section(MoEConfig, "The mixture-of-experts layers.")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What is trained on."""

    corpus: str = setting(
        "python_stdlib",
        "python_stdlib, text:PATHS, tfds:NAME, packed:FOLDER, each with options such as "
        ",field=NAME; or a mixture, 0.7*text:/a + 0.3*tfds:b (data/sources/spec.py has all).",
        resumable=True,  # its place: other text is refused by its hash
    )
    validation_corpus: str = setting(
        "", "All of it is validated with; empty: what the corpus holds out.", resumable=True
    )
    validation_share: float = setting(
        0.05,
        "Share of the documents held out by a hash of their text, where a source has no "
        "validation split of its own.",
        between(0.001, 0.5),
    )
    broken_lines: str = setting(
        "refuse", "Of .jsonl files: refuse, or skip and count.", one_of("refuse", "skip")
    )
    tokenizer: str = setting(
        "bytes", "bytes, or a tokenizer.json, or a SentencePiece .model (a path).", resumable=True
    )
    end_of_text: str = setting(
        "", "The token between documents; empty: found among the usual names."
    )
    seq_len: int = setting(1024, "Tokens of a training sequence.", at_least(2))
    tfds_dir: str = setting(
        "", "Where tfds:NAME is prepared; empty: ~/tensorflow_datasets.", resumable=True
    )
    cache_dir: str = setting(
        "",
        "Where packed tokens are kept, also gs://...; empty: ~/.cache/cartesian_moe_jax/data.",
        resumable=True,
    )
    workers: int = setting(
        0, "Processes that read and tokenise; 0: one a core.", at_least(0), resumable=True
    )


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW; the defaults, with warm-up and cosine decay, are the authors' earlier trainer's."""

    name: str = setting("adamw", "adamw, or sgd (no momentum, no decay: for tests).")
    learning_rate: float = setting(3e-4, "Peak learning rate.", above(0))
    schedule: str = setting(
        "cosine",
        "After the warm-up: cosine or linear (decay until the last step), constant, or wsd "
        "(constant, then decay over the last decay_steps).",
        plan=True,
    )
    final_learning_rate: float = setting(
        0.0,
        "What a decay ends at behind the last step, as a share of the peak.",
        between(0, 1),
        plan=True,
    )
    decay_steps: int = setting(
        0, "Of schedule wsd: the last steps, in which the rate decays.", at_least(0), plan=True
    )
    expert_rate: float = setting(
        1.0, "Multiplies the learning rate of the routed experts' weights.", above(0)
    )
    expert_reference_width: int = setting(
        0,
        "Also multiplies that of their down projections by this width / d_expert, as muP does for "
        "weights that read an axis of that width (gate and up read d_model); 0: it does not.",
        at_least(0),
    )
    warmup_steps: int = setting(1000, "Steps of linear warm-up from 0.", at_least(0))
    beta1: float = setting(0.9, "Decay of the gradient's mean.", from_to_below(0, 1))
    beta2: float = setting(0.95, "Decay of the gradient's square.", from_to_below(0, 1))
    eps: float = setting(1e-8, "Added to the root of the squared gradient's mean.", above(0))
    weight_decay: float = setting(
        0.1, "Decoupled decay, on all but biases and the norms inside layers.", at_least(0)
    )
    clip_norm: float = setting(1.0, "Largest global gradient norm; 0: no clipping.", at_least(0))


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """The run."""

    steps: int = setting(100_000, "Optimizer steps.", at_least(1), plan=True)
    batch_size: int = setting(1024, "Sequences per optimizer step, on all devices.", at_least(1))
    accumulate: int = setting(
        1, "Microbatches whose gradients are averaged in one step.", at_least(1)
    )
    seed: int = setting(0, "Of initial weights and data order.", between(0, 2**32 - 1))
    initial: str = setting(
        "",
        "Parameters to begin with, DIR or DIR@STEP: of a run (its newest checkpoint, or that of a "
        "step), or of a checkpoint in the official format; empty: drawn from the seed.",
    )
    log_every: int = setting(10, "Steps between records of metrics.", at_least(1), resumable=True)
    checkpoint_every: int = setting(
        1000,
        "Steps between checkpoints; the last step has one, and the last before the decay of "
        "schedule wsd, which is kept.",
        at_least(1),
        resumable=True,
    )
    keep_checkpoints: int = setting(2, "Newest checkpoints kept.", at_least(1), resumable=True)
    compilation_cache: str = setting(
        "", "Folder of compiled programs; empty: ~/.cache/cartesian_moe_jax/xla.", resumable=True
    )


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """Validation while training and at its end, and the sample at the end."""

    every: int = setting(
        0, "Steps between validations; 0: only at the end.", at_least(0), resumable=True
    )
    batch_size: int = setting(0, "Sequences; 0: one microbatch.", at_least(0), resumable=True)
    max_tokens: int = setting(
        0, "Validation tokens used, from the start; 0: all.", at_least(0), resumable=True
    )
    prompt: str = setting("def ", "Start of the text sample.", resumable=True)
    sample_tokens: int = setting(160, "Length of the text sample.", at_least(0), resumable=True)
    baseline: bool = setting(
        True, "Also fit a 3-gram model to the text at the end of a run.", resumable=True
    )
    temperature: float = setting(
        0.8, "Of the text sample; 0: most likely.", at_least(0), resumable=True
    )


@dataclasses.dataclass(frozen=True)
class ParallelConfig:
    """The device mesh, and how parameters and tokens lie on it."""

    layout: str = setting(
        "data",
        "data (all replicated), fsdp (parameters split), expert (experts split, the rest "
        "replicated), expert_fsdp (experts and the rest split), tensor (heads and hidden widths "
        "split), expert_tensor (experts and hidden widths split).",
        resumable=True,
    )
    data: int = setting(0, "Devices on the data axis.", mesh_size(), resumable=True)
    fsdp: int = setting(0, "Devices on the fsdp axis.", mesh_size(), resumable=True)
    expert: int = setting(0, "Devices on the expert axis.", mesh_size(), resumable=True)
    tensor: int = setting(0, "Devices on the tensor axis.", mesh_size(), resumable=True)
    rules: str = setting(
        "",
        "A layout of your own, LOGICAL=MESH[+MESH],... as in experts=expert,d_model=fsdp+expert; "
        "empty: the layout's. Logical axes: vocab, d_model, heads, d_ff, experts, expert_d_model "
        "(the experts' own), d_expert.",
        resumable=True,
    )
    exchange: str = setting(
        "",
        "How tokens reach experts on other devices: gather, all_to_all, ragged (accelerators), or "
        "local (the experts' weights come to the tokens); empty: the layout's.",
        resumable=True,
    )
    bucket_factor: float = setting(
        2.0,
        "Of gather, all_to_all and ragged in training: rows that a device may send, receive or "
        "compute, as a multiple of an even share; pairs beyond it are dropped by priority and "
        "counted, their weights given to the token's other experts. 0: as many as come. "
        "Evaluation drops nothing.",
        at_least(0),
        resumable=True,
    )


@dataclasses.dataclass(frozen=True)
class StudyConfig:
    """What the verb ``study`` compares; a single run does not read it."""

    methods: str = setting(
        "smoe_share,fine_grained,cartesian",
        "Of models/methods.py, joined by commas; METHOD+FIELD=VALUE changes a field of one, as in "
        "cartesian+model.moe.sublayers=3.",
        resumable=True,
    )
    seeds: str = setting("0", "Of initial weights and data order: 0,1,2.", resumable=True)
    reference: str = setting(
        "smoe_share", "The method that gaps are measured from.", resumable=True
    )
    bases: str = setting(
        "cartesian", "More that all are compared with, joined by commas.", resumable=True
    )
    learning_rates: str = setting(
        "2e-3,4e-3", "Peaks tried for each method, in rising order.", resumable=True
    )
    extensions: int = setting(
        2,
        "How often one more of each is tried, at the same ratio, while the best lies at an end.",
        at_least(0),
        resumable=True,
    )
    expert_rates: str = setting(
        "1",
        "Then optimizer.expert_rate tried at the best of them; of methods with experts.",
        resumable=True,
    )
    tuning_steps: int = setting(
        0, "Steps of a run that only tunes; 0: those of training.", at_least(0), resumable=True
    )
    tuning_seed: int = setting(
        1000,
        "Of all runs that tune: none of those compared.",
        between(0, 2**32 - 1),
        resumable=True,
    )
    robustness_tokens: int = setting(
        32_768, "Predicted in each trial of robustness; 0: all.", at_least(0), resumable=True
    )


@dataclasses.dataclass(frozen=True)
class Config:
    """One experiment."""

    model: ModelConfig = section(ModelConfig, "The decoder.")
    data: DataConfig = section(DataConfig, "What is trained on.")
    optimizer: OptimizerConfig = section(OptimizerConfig, "How the weights move.")
    training: TrainingConfig = section(TrainingConfig, "The run.")
    evaluation: EvaluationConfig = section(EvaluationConfig, "Validation and sample.")
    parallel: ParallelConfig = section(ParallelConfig, "Mesh and layout.")
    study: StudyConfig = section(StudyConfig, "What a study compares.")
    profile: str = setting(
        "",
        "START:STEPS traces that many steps from step START on, into the run's tensorboard folder.",
        span(),
        resumable=True,
    )

    def profile_window(self) -> tuple[int, int] | None:
        """Return the first step that is traced, and how many are; None: none."""
        if not self.profile:
            return None
        first, steps = map(int, self.profile.split(":"))
        return first, steps


def read(values: Mapping[str, Any]) -> Config:
    """Build and check a Config from nested dicts; raises UserError with one line."""
    config = from_dict(Config, values)
    for holds, line in relations(config):
        if not holds:
            raise UserError(line)
    return config
