"""A user's copy of the Pile: --config=configs/pile.py:FOLDER, which may be gs://BUCKET/pile.

The folder holds train/*.jsonl.zst and val.jsonl.zst as they were published (rows of `text` and
`meta.pile_set_name`), and a tokenizer.model (LLaMA's, 32,000 pieces, is what the paper used).
The 22 domains are sampled by weight; one pass over the files packs all of them.

--config=configs/pile.py:FOLDER,published takes the Pile's own weights in place of the authors'.
"""

from ml_collections import ConfigDict

from cartesian_moe_jax.errors import UserError, lookup
from configs import base

AUTHORS = {
    "PubMed Central": 0.28230,
    "ArXiv": 0.19973,
    "OpenWebText2": 0.17351,
    "Books3": 0.16403,
    "Pile-CC": 0.15510,
    "Wikipedia (en)": 0.11214,
    "StackExchange": 0.10266,
    "Github": 0.09624,
    "FreeLaw": 0.08954,
    "USPTO Backgrounds": 0.05858,
    "PubMed Abstracts": 0.05356,
    "DM Mathematics": 0.05021,
    "Gutenberg (PG-19)": 0.04812,
    "OpenSubtitles": 0.02385,
    "Ubuntu IRC": 0.02287,
    "EuroParl": 0.01562,
    "YoutubeSubtitles": 0.01506,
    "HackerNews": 0.01172,
    "BookCorpus2": 0.01004,
    "PhilPapers": 0.00725,
    "NIH ExPorter": 0.00474,
    "Enron Emails": 0.00296,
}
"""Of the earlier trainer of the paper's first author (suu990901/LLaMA-MiLe-Loss), as far as is
known the paper's too. They add up to 1.70 and are shares of their sum."""

PUBLISHED = {
    "Pile-CC": 0.1811,
    "PubMed Central": 0.1440,
    "Books3": 0.1207,
    "OpenWebText2": 0.1001,
    "ArXiv": 0.0896,
    "Github": 0.0759,
    "FreeLaw": 0.0612,
    "StackExchange": 0.0513,
    "USPTO Backgrounds": 0.0365,
    "PubMed Abstracts": 0.0307,
    "Gutenberg (PG-19)": 0.0217,
    "OpenSubtitles": 0.0155,
    "Wikipedia (en)": 0.0153,
    "DM Mathematics": 0.0124,
    "Ubuntu IRC": 0.0088,
    "BookCorpus2": 0.0075,
    "EuroParl": 0.0073,
    "HackerNews": 0.0062,
    "YoutubeSubtitles": 0.0060,
    "PhilPapers": 0.0038,
    "NIH ExPorter": 0.0030,
    "Enron Emails": 0.0014,
}
"""Table 1 of the Pile's paper (arXiv 2101.00027)."""

WEIGHTS = {"authors": AUTHORS, "published": PUBLISHED}


def get_config(argument: str = "") -> ConfigDict:
    """Return the paper's Base model and recipe on the Pile in `FOLDER` or `FOLDER,WEIGHTS`."""
    folder, _, name = argument.partition(",")
    weights = lookup(WEIGHTS, name or "authors", "configs/pile.py:FOLDER,WEIGHTS")
    if not folder:
        raise UserError("configs/pile.py needs the Pile's folder: --config=configs/pile.py:FOLDER")
    folder = folder.rstrip("/")
    config = base.get_config()
    config.data.corpus = " + ".join(
        f"{weight}*text:{folder}/train/*.jsonl.zst,where=meta.pile_set_name:{domain}"
        for domain, weight in weights.items()
    )
    config.data.validation_corpus = f"text:{folder}/val.jsonl.zst"
    config.data.tokenizer = f"{folder}/tokenizer.model"
    return config
