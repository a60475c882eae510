"""Presets: each file's get_config() returns the schema's fields with some changed."""
