"""The name under which rematerialisation finds what attention leaves for its backward pass."""

ATTENTION_RESIDUALS = "attention_residuals"
"""Of the output and the softmax's sums: with them, the backward pass need not attend again."""
