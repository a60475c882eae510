"""Interoperation: the checkpoint format of the official PyTorch implementation."""
