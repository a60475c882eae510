"""PyTorch twins of what the benchmarks time; they run in an environment of their own."""
