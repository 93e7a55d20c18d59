"""The PyTorch image model and its adapters against JAX's."""

import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.array_types import STREAMS
from ccl_jax.convert import export, transformer, workdirs
from tests.convert.joints import MODELS
from tests.parity.torch_ccl import (
  LIMIT,
  B,
  F,
  error,
  inputs,
  ours,
  theirs,
  to_torch,
  torch_model,
)


def given_to(kind):
  """Every route of training, with the latents that the model's frames have."""
  state, t, text, route = inputs()
  audio = MODELS[kind]["audio"]
  if audio is None:
    return {"video": state["video"]}, {"video": t["video"]}, text, route
  rng, m = np.random.default_rng(2), int(F * audio["tokens_per_frame"] + 0.5)
  sound = jnp.asarray(rng.normal(size=(B, m, 2)), "float32")
  return state | {"audio": sound}, t, text, route


@pytest.mark.parametrize(
  "kind", ["adapted", "adapted, 24 fps", "adapted, noise", "images"]
)
def test_velocity_of_every_route(kind):
  """Both streams, and each alone; a frame of the video may be given."""
  (params, velocity), model = ours(kind), theirs(kind)
  state, t, text, route = given_to(kind)
  some = [tuple(state)] + [(s,) for s in STREAMS if len(state) > 1]
  for streams in some:
    given = {s: state[s] for s in streams}, {s: t[s] for s in streams}
    expected = velocity(params, *given, text, route)
    assert error(expected, model(*to_torch((*given, text, route)))) <= LIMIT
    assert min(np.abs(x).mean() for x in expected.values()) > 0.1


def test_an_export_comes_back_and_has_no_part_of_wans(tmp_path):
  params, velocity = ours("adapted")
  workdir = tmp_path / "run"
  workdir.mkdir()
  workdirs.write(workdir, 1, params, {"settings": MODELS["adapted"]})
  export.to_torch(workdir, tmp_path / "export")
  model = torch_model.CCL.from_pretrained(tmp_path / "export")
  given = given_to("adapted")
  assert error(velocity(params, *given), model(*to_torch(given))) <= LIMIT
  transformer.from_export(tmp_path / "export", tmp_path / "back")
  for options in ({"component": "video"}, {"layout": "single"}):
    with pytest.raises(ValueError, match="no place in Wan's"):
      export.to_torch(workdir, tmp_path / "no", **options)
  assert not (tmp_path / "no").exists()
