"""Comparing the methods: matched, tuned, trained on the same data, and reported."""
