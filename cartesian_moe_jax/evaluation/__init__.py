"""Evaluation: how well a model predicts held-out text, and what simple models reach on it."""
