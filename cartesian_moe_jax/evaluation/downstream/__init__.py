"""Downstream tasks (paper Table 2), as the lm-evaluation-harness defines them."""
