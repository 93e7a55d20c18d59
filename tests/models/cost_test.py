"""What the cross-modal part costs at the 1.3b shape: compiled, never run."""

import functools
import re

import jax
import jax.numpy as jnp

from ccl_jax.array_types import STREAMS, Route
from ccl_jax.models import functional
from configs.ccl import get_config

F, H, W = 31, 44, 80  # 121 frames of 352 x 640: 27,280 video tokens
VIDEO, AUDIO = F * 22 * 40, F * 5


@functools.cache
def compiled(kind):
  """The velocity of two unrolled layers of the 1.3b shape, one sample."""
  settings = get_config("size=1.3b").model.to_dict()
  settings |= dict(num_layers=2, scan=False, remat="none")
  if kind != "cca":
    settings["fusion"] = dict(kind=kind)
  graph, params = functional.describe(settings)
  array = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)  # noqa: E731
  state = {"video": array(1, F, H, W, 16), "audio": array(1, AUDIO, 20)}
  t = {"video": array(1), "audio": array(1)}
  each = jax.ShapeDtypeStruct((1,), jnp.bool_)
  route = Route(
    dict.fromkeys(STREAMS, each), dict.fromkeys(STREAMS, each), each
  )
  run = jax.jit(functools.partial(functional.velocity, graph))
  return run.lower(params, state, t, array(1, 512, 4096), route).compile()


def flops(kind):
  return compiled(kind).cost_analysis()["flops"]


def test_cca_adds_under_twelve_percent():
  towers = flops("independent")
  share = flops("cca") / towers - 1
  assert 0.01 < share < 0.12, share


def test_no_buffer_holds_video_by_audio_tokens():
  """No shape has a multiple of n * m elements made of both lengths."""
  shapes = re.findall(r"\w+\[([\d,]+)\]", compiled("cca").as_text())
  dims = {tuple(int(d) for d in s.split(",")) for s in shapes}
  keys = {AUDIO, AUDIO + 8, AUDIO + 128}
  queries = {VIDEO, VIDEO + 8, VIDEO + 128}
  assert not [d for d in dims if keys & set(d) and queries & set(d)]
