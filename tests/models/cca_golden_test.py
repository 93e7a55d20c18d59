"""CCA against vectors made by a plain float64 definition of it.

The vectors' weights are in Wan's layout (interleaved RoPE pairs), so loading
them goes through `half_split_order`, as a converter does.
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ccl_jax.array_types import Route
from ccl_jax.attention import Attention
from ccl_jax.models.fusion import FusionContext
from ccl_jax.models.fusion.cca import CCA
from ccl_jax.models.rope import half_split_order

GOLDEN = pathlib.Path(__file__).parent / "golden"


def load(case):
  """(module, inputs, route, outputs, grids) of a case."""
  data = np.load(GOLDEN / f"cca_case{case}.npz")
  f, h, w, c, e, k_v, k_a = (int(x) for x in data["sizes"])
  b = len(data["video"])
  module = CCA(
    {"video": k_v * e, "audio": k_a * e},
    {"video": e, "audio": e},
    num_audio_lct=len(data["video.lct"]),
    num_video_lct=len(data["audio.lct"]),
    rngs=nnx.Rngs(0),
    dtype=jnp.float32,
  )
  for side in ("video", "audio"):
    fill(getattr(module, side), data, side, e)
  x = {
    "video": jnp.asarray(data["video"].reshape(b, f, h * w, -1)),
    "audio": jnp.asarray(data["audio"].reshape(b, f, c, -1)),
  }
  yes = jnp.ones(b, bool)
  sees = {
    "video": jnp.asarray(data["video_sees_audio"]),
    "audio": jnp.asarray(data["audio_sees_video"]),
  }
  route = Route(sees, {"video": yes, "audio": yes}, yes)
  out = {s: data[f"out_{s}"].reshape(x[s].shape) for s in x}
  return module, x, route, out, {"video": (f, h, w), "audio": (f, 1, c)}


def fill(module, data, side, e):
  def get(name):
    return data[f"{side}.{name}"]

  d = get("w_q").shape[1]
  order = np.concatenate([i + half_split_order(e) for i in range(0, d, e)])
  for name in "qkvo":
    kernel, bias = get(f"w_{name}"), get(f"b_{name}")
    if name in "qk":
      kernel, bias = kernel[:, order], bias[order]
    linear = getattr(module.attention, name)
    linear.kernel[...], linear.bias[...] = (
      jnp.asarray(kernel),
      jnp.asarray(bias),
    )
  for name in ("q", "k"):
    norm = getattr(module.attention, f"norm_{name}")
    norm.scale[...] = jnp.asarray(get(f"norm_{name}")[order])
  for norm, name in ((module.norm, "ln_q"), (module.norm_other, "ln_kv")):
    norm.scale[...] = jnp.asarray(get(f"{name}_scale"))
    norm.bias[...] = jnp.asarray(get(f"{name}_bias"))
  module.context[...] = jnp.asarray(get("lct"))


@pytest.mark.parametrize("backend", ["reference", "framed", "splash"])
@pytest.mark.parametrize("case", [1, 2, 3])
def test_cca_equals_the_definition(case, backend):
  module, x, route, expected, grids = load(case)
  with jax.default_matmul_precision("highest"):
    shared = FusionContext(
      grids, x["video"].shape[1], route, Attention(backend)
    )
    added = module.exchange(x, shared)
  for s in x:
    error = np.abs(np.asarray(x[s] + added[s]) - expected[s]).max()
    assert error <= 1e-5 * max(1, np.abs(expected[s]).max()), (s, error)
