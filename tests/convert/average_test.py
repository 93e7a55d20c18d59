"""The mean of checkpoints, and its readers."""

import jax
import numpy as np
import pytest

from ccl_jax.checkpoints import restore, run_config
from ccl_jax.convert import inspection, workdirs
from ccl_jax.convert.average import average
from ccl_jax.generation.pipeline import Pipeline
from ccl_jax.params import trees
from ccl_jax.storage import text_files
from tests.convert import small_run
from tests.models import tiny

pytestmark = pytest.mark.usefixtures("describe_once")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  return small_run.write(tmp_path_factory.mktemp("run") / "run")


def test_mean(run, tmp_path):
  about = average(run, (5, 1, 2, 1), tmp_path / "mean")
  assert about["mean_of"] == [1, 2, 5]
  each = [
    trees.flatten(small_run.params(s, average=False)) for s in about["mean_of"]
  ]
  found, step, _ = workdirs.open_workdir(tmp_path / "mean").params()
  assert step == 5
  for path, x in found.items():
    assert x.dtype == each[0][path].dtype
    expected = np.mean([y[path].astype(np.float64) for y in each], 0)
    if path.startswith("audio"):  # It was frozen.
      np.testing.assert_array_equal(x, each[0][path], err_msg=path)
    np.testing.assert_allclose(x, expected, rtol=1e-5, atol=1e-6)


def test_the_pipeline_and_training_read_it(run, tmp_path):
  average(run, (1, 2), tmp_path / "mean")
  loaded = Pipeline.load(tmp_path / "mean")
  found = workdirs.open_workdir(tmp_path / "mean").params().arrays
  for path, x in trees.flatten(loaded.params).items():
    np.testing.assert_array_equal(x, np.asarray(found[path]).astype(x.dtype))
  shapes = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), loaded.params
  )
  taken = restore.initial_params(
    shapes, [("video/.*", tmp_path / "mean")], ["audio/.*", "fusion/.*"]
  )
  assert taken.keys() == {p for p in found if p.startswith("video")}
  assert "mean_of: [1, 2]" in inspection.report(tmp_path / "mean")


def test_errors_leave_nothing(run, tmp_path):
  output = tmp_path / "mean"
  for steps, words in (
    ((1,), "two or more"),
    ((2, 2), "two or more"),
    ((1, 3), "No checkpoint of step 3"),
  ):
    with pytest.raises(ValueError, match=words):
      average(run, steps, output)
  other = tmp_path / "other"
  other.mkdir()
  config = run_config.read(run)
  text_files.write_json(other / "config.json", config)
  workdirs.write(other, 1, small_run.draw(1), {})
  wide = {**tiny.SETTINGS, "text_width": 7}
  workdirs.write(other, 2, small_run.draw(2, wide), {})
  with pytest.raises(ValueError, match=r"checkpoints/2' lacks.*\n.*text/up"):
    average(other, (1, 2), output)
  assert not output.exists()
