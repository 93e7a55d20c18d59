"""The machine on which the launchers are tested."""

import pytest

from tests.launch import stubs


@pytest.fixture
def machine(tmp_path):
  return stubs.Machine(tmp_path)
