"""What users are told when something is wrong."""

import pytest

from cartesian_moe_jax.errors import UserError


def message_of(call, *arguments, **options):
    """The UserError that a call raises; it must be one line."""
    with pytest.raises(UserError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)
