"""A user's copy of the Pile: --config=configs/pile.py:FOLDER, which may be gs://BUCKET/pile.

The folder holds train/*.jsonl.zst and val.jsonl.zst as they were published (rows of `text` and
`meta.pile_set_name`), and a tokenizer.model (LLaMA's, 32,000 pieces, is what the paper used).
The 22 domains are sampled by weight; one pass over the files packs all of them.
"""

from ml_collections import ConfigDict

from cartesian_moe_jax.errors import UserError
from configs import base

WEIGHTS = {
    "Pile-CC": 18.11,
    "PubMed Central": 14.40,
    "Books3": 12.07,
    "OpenWebText2": 10.01,
    "ArXiv": 8.96,
    "Github": 7.59,
    "FreeLaw": 6.12,
    "StackExchange": 5.13,
    "USPTO Backgrounds": 3.65,
    "PubMed Abstracts": 3.07,
    "Gutenberg (PG-19)": 2.17,
    "OpenSubtitles": 1.55,
    "Wikipedia (en)": 1.53,
    "DM Mathematics": 1.24,
    "Ubuntu IRC": 0.88,
    "BookCorpus2": 0.75,
    "EuroParl": 0.73,
    "HackerNews": 0.62,
    "YoutubeSubtitles": 0.60,
    "PhilPapers": 0.38,
    "NIH ExPorter": 0.30,
    "Enron Emails": 0.14,
}
"""Per cent of the training tokens by domain: Table 1 of the Pile's paper (arXiv 2101.00027)."""


def get_config(folder: str = "") -> ConfigDict:
    """Return the paper's Base model and recipe on the Pile in `folder`."""
    if not folder:
        raise UserError("configs/pile.py needs the Pile's folder: --config=configs/pile.py:FOLDER")
    config = base.get_config()
    files = f"text:{folder.rstrip('/')}/train/*.jsonl.zst"
    config.data.corpus = " + ".join(
        f"{weight}*{files},where=meta.pile_set_name:{name}" for name, weight in WEIGHTS.items()
    )
    config.data.validation_corpus = f"text:{folder.rstrip('/')}/val.jsonl.zst"
    config.data.tokenizer = f"{folder.rstrip('/')}/tokenizer.model"
    return config
