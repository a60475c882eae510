"""Routers: each scores tokens in the global view and chooses experts token by token."""
