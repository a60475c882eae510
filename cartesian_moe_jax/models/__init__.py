"""The decoder: LLaMA-style, with dense or Cartesian feed-forward layers."""
