import pytest

from ccl_jax.codecs import bundle
from tests.data import learned as fakes


@pytest.fixture
def learned(monkeypatch):
  """Makes codecs like the learned ones, known to `bundle` for the test."""
  monkeypatch.setattr(bundle, "KINDS", bundle.KINDS | fakes.KINDS)
  return fakes.make
