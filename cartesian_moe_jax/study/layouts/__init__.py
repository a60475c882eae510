"""Compare layouts: what each costs on a target, from the compiled program of its train step."""
