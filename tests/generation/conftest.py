"""The pipeline of the run that the tests of this folder share."""

import pytest

from ccl_jax.generation.pipeline import Pipeline


@pytest.fixture(scope="session")
def pipeline(run):
  """Returns the pipeline of `run`; tests do not change it."""
  return Pipeline.load(run)
