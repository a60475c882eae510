"""Layers that the mixture of experts and the decoder around it share."""
