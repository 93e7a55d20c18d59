"""What the tests of conversion share."""

import pytest

from ccl_jax.models import functional
from tests.convert import small_run


@pytest.fixture
def describe_once(monkeypatch):
  """Describes each model once: it takes longer than to convert a small one."""
  monkeypatch.setattr(functional, "describe", small_run.described)
