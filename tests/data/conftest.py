"""Fake learned codecs for the tests of this folder."""

import pytest

from ccl_jax.codecs import api
from tests.data import learned as fakes


@pytest.fixture
def learned(monkeypatch):
  """Makes codecs like the learned ones, known to `codecs.api` for the test."""
  monkeypatch.setattr(api, "KINDS", api.KINDS | fakes.KINDS)
  return fakes.make
