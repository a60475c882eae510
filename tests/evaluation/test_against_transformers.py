"""Tasks against the harness's own adapter, and model, of PyTorch: $BENCH_PYTHON, or .venv-bench."""

import json
import os
import subprocess
from pathlib import Path

import pytest

import cartesian_moe_jax as cmoe
from cartesian_moe_jax.data.tokenizers import train_bpe
from cartesian_moe_jax.interop.official_model import write_model
from cartesian_moe_jax.models.parameters import named_parameters
from tests import tiny
from tests.task_rows import ROWS, responses, write

ROOT = Path(__file__).parents[2]
PYTHON = os.environ.get("BENCH_PYTHON") or str(ROOT / ".venv-bench/bin/python")
HAS_HARNESS = (
    Path(PYTHON).exists()
    and not subprocess.run([PYTHON, "-c", "import lm_eval, torch"], capture_output=True).returncode
)
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not HAS_HARNESS, reason="$BENCH_PYTHON has no PyTorch or no lm_eval"),
]

SEQ, VOCAB = 512, 300

THEIRS = """
import json, sys
from pathlib import Path
from lm_eval.models.huggingface import HFLM
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast
from tests.task_rows import responses

model, rows, to = sys.argv[1:]
tokenizer = Tokenizer.from_file(f"{model}/tokenizer.json")
end = tokenizer.id_to_token(0)
# A text begins behind an end-of-text token.
tokenizer.post_processor = TemplateProcessing(single=f"{end} $A", special_tokens=[(end, 0)])
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=tokenizer, bos_token=end, eos_token=end, pad_token=end
)
theirs = HFLM(
    pretrained=LlamaForCausalLM.from_pretrained(model).eval(),
    tokenizer=tokenizer, batch_size=4, add_bos_token=True, max_length=SEQ, device="cpu",
)
Path(to).write_text(json.dumps(responses(theirs, Path(rows))))
"""


def test_likelihoods_and_answers(tmp_path):
    """Of a model without mixtures, which is a Llama."""
    rows, folder = tmp_path / "rows", tmp_path / "model"
    rows.mkdir()
    folder.mkdir()
    write(rows)
    fields = {"vocab_size": VOCAB, "init_std": 0.3, "moe": {"interval": 0}}
    config = tiny.config(model=fields, data={"seq_len": SEQ})
    train_bpe(iter([tiny.TEXT]), VOCAB, folder / "tokenizer.json")
    write_model(folder, config, named_parameters(tiny.model(config.model)), end_of_text=0)
    program = THEIRS.replace("max_length=SEQ", f"max_length={SEQ}")
    to = tmp_path / "theirs.json"
    done = subprocess.run(
        [PYTHON, "-c", program, folder, rows, to], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    theirs = json.loads(to.read_text())
    ours = responses(cmoe.load(folder).harness(), rows)
    answers = 0
    for task, each in ours.items():
        for our, their in zip(each, theirs[task], strict=True):
            if isinstance(our, str):
                assert our == their
                answers += 1
            else:
                assert our[0] == pytest.approx(their[0], rel=1e-5) and our[1] == their[1]
    assert answers == len(ROWS["nq_open"]["validation"])
