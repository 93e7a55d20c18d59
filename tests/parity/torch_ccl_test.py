"""The PyTorch CCL against the JAX model; -s prints how far they are apart."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ccl_jax.array_types import STREAMS, Image, Route
from ccl_jax.attention import Attention
from ccl_jax.convert import ccl, export, workdirs
from ccl_jax.convert.state_dict import iter_state_dict
from ccl_jax.models.fusion import FusionContext, make_fusion
from ccl_jax.models.fusion.cca import POSITIONS, frame_times
from ccl_jax.params import trees
from ccl_jax.params.sharding import ONE_DEVICE
from tests.convert.joints import MODELS, random_like
from tests.parity.torch_ccl import (
  BOUND,
  LIMIT,
  B,
  F,
  H,
  W,
  arrays,
  error,
  inputs,
  ours,
  theirs,
  to_torch,
  torch,
  torch_model,
)

FUSED = ("fine", "no tarp", "no dcr", "one context", "gated", "gated tarp")


def expected_of(kind, *given, **options):
  params, velocity = ours(kind, **options)
  return velocity(params, *(given or inputs()))


def test_velocity_of_every_route():
  found = error(expected_of("cca"), theirs("cca")(*to_torch(inputs())))
  print("float32:", found)
  assert found <= LIMIT


@pytest.mark.parametrize("kind", [k for k in MODELS if "24 fps" in k])
def test_velocity_where_frames_have_unequal_numbers_of_latents(kind):
  """Both streams, and each alone; 5, 5 and 6 latents in three frames."""
  (state, t, text, routes), rng = inputs(), np.random.default_rng(2)
  state = state | {"audio": jnp.asarray(rng.normal(size=(B, 16, 2)), "float32")}
  for streams in (STREAMS, ("video",), ("audio",)):
    some = {s: state[s] for s in streams}, {s: t[s] for s in streams}
    given = *some, text, routes
    found = error(expected_of(kind, *given), theirs(kind)(*to_torch(given)))
    print(kind, streams, found)
    assert found <= LIMIT
  with pytest.raises(ValueError, match="15 audio latents: expected 16"):
    theirs(kind)(
      *to_torch(({"audio": state["audio"][:, :15]}, t, text, routes))
    )


def test_velocity_told_of_an_image(tmp_path):
  """By latents and tokens, by one of them or by none, after an export."""
  params, velocity = ours("image")
  about = {"settings": MODELS["image"]}
  (tmp_path / "run").mkdir()
  workdirs.write(tmp_path / "run", 1, params, about)
  export.to_torch(tmp_path / "run", tmp_path / "export")
  model = torch_model.CCL.from_pretrained(tmp_path / "export")
  rng = np.random.default_rng(1)
  latents = rng.standard_normal((B, F, H, W, 4), np.float32)
  tokens = rng.standard_normal((B, 8, 7), np.float32)
  # Without values, an image adds nothing to what is read of the text.
  leaves = trees.flatten(params)
  heard = {p: 0 * x if "/image/v/" in p else x for p, x in leaves.items()}
  unread, none = trees.unflatten(heard), np.zeros_like(latents)
  for image, given, equal in (
    ({"latents": latents, "tokens": tokens}, params, latents),
    ({"latents": latents}, unread, latents),
    ({"tokens": tokens}, params, none),
    (None, unread, none),
  ):
    expected = velocity(given, *inputs(), Image(equal, tokens))
    found = error(
      expected, model(*to_torch(inputs()), image and to_torch(image))
    )
    print("image:", list(image or ()), found)
    assert found <= LIMIT
  assert (
    error(velocity(params, *inputs(), Image(latents, tokens)), expected) > 0.1
  )


@pytest.mark.parametrize("kind", FUSED)
def test_what_streams_read_of_each_other(kind):
  """One layer's exchange, of every fusion and its switches."""
  model = torch_model.CCL(MODELS[kind])
  graph, params = fusion_of(model)
  rng, routes = np.random.default_rng(1), inputs()[3]
  grids = {"video": (F, 2, 3), "audio": (F, 1, 2)}
  x = {
    s: jnp.asarray(rng.standard_normal((B, F, h * w, d)), "float32")
    for (s, (_, h, w)), d in zip(grids.items(), (32, 20), strict=True)
  }
  shared = FusionContext(grids, F, routes, Attention(None, ONE_DEVICE))
  expected = jax.jit(lambda p, x: nnx.merge(graph, p).exchange(x, shared))(
    params, x
  )
  y, sides = to_torch(x), model.sides(grids, to_torch(routes), "cpu")
  got = {
    s: model.fusion[1][s](y[s], y[torch_model.OTHER[s]], *side) - y[s]
    for s, side in sides.items()
  }
  assert got.keys() == expected.keys()
  print(kind, error(expected, got, by_sample=False))
  assert error(expected, got, by_sample=False) <= LIMIT


def fusion_of(model):
  """(graph, parameters) of JAX's for one layer; the model's get them too."""
  options = model.config["fusion"]
  widths, head_sizes = dict(video=32, audio=20), dict(video=16, audio=10)
  graph, shapes = nnx.split(
    nnx.eval_shape(
      lambda: make_fusion(
        options, widths=widths, head_sizes=head_sizes, rngs=nnx.Rngs(0),
        dtype=jnp.float32,
      )
    )
  )  # fmt: skip
  stacked = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct((2, *x.shape), x.dtype),
    nnx.to_pure_dict(shapes),
  )
  params = random_like({"fusion": stacked})
  model.requires_grad_(False)
  rules = [r for r in ccl.table(model.config) if "fusion" in r.theirs[0]]
  theirs = iter_state_dict(params, rules)
  tensors = {name: torch.tensor(x) for name, x in theirs}
  assert not model.load_state_dict(tensors, strict=False).unexpected_keys
  return graph, jax.tree.map(lambda x: x[1], params["fusion"])


@pytest.mark.parametrize("c", [5, 8, 6.25])
@pytest.mark.parametrize("positions", POSITIONS)
def test_positions_in_time(positions, c):
  expected = frame_times(positions, 7, c, 24.0)
  got = torch_model.frame_times(positions, 7, c, 24.0)
  for s, x in expected.items():
    np.testing.assert_array_equal(got[s], x)


@pytest.mark.parametrize("stream", STREAMS)
def test_a_stream_alone(stream):
  """Is one that sees nothing; without a fusion, one that drops it."""
  state, t, text, routes = inputs()
  no = jnp.zeros(B, bool)
  for model, change in (
    (theirs("cca"), dict(sees={"video": no, "audio": no})),
    (tower(stream), dict(exchanges=no)),
  ):
    routed = routes._replace(**change)
    both = expected_of("cca", state, t, text, routed)
    alone = {stream: state[stream]}, {stream: t[stream]}, text, routes
    found = error({stream: both[stream]}, model(*to_torch(alone)))
    assert found <= LIMIT


def tower(stream):
  """The stream of the "cca" model in one that has nothing else."""
  model = torch_model.CCL(MODELS[stream])
  tensors = {
    name: torch.tensor(x)
    for name, x in arrays("cca").items()
    if name.startswith(stream)
  }
  model.load_state_dict(tensors, strict=True)
  return model.requires_grad_(False)


def test_a_time_for_each_sample_frame_or_token():
  model = theirs("cca")
  state, t, text, routes = to_torch(inputs())
  t = {s: x.flatten(1)[:, -1] if x.ndim > 1 else x for s, x in t.items()}
  frames = {s: x[:, None, None].expand(B, F, 1) for s, x in t.items()}
  tokens = {"video": frames["video"].expand(B, F, 6),
            "audio": frames["audio"].expand(B, F, 2)}  # fmt: skip
  once = model(state, t, text, routes)
  for times in (frames, tokens):
    assert error(once, model(state, times, text, routes)) < 1e-5


def test_gradient_does_not_enter_a_reference():
  state, t, text, routes = to_torch(inputs())
  for s in STREAMS:
    leaf = state[s].clone().requires_grad_()
    other = torch_model.OTHER[s]
    made = theirs("cca")(state | {s: leaf}, t, text, routes)[other]
    (gradient,) = torch.autograd.grad(made.square().sum(), leaf)
    reached = gradient.flatten(1).abs().amax(1) > 0
    assert reached.tolist() == [i in (3, 4) for i in range(B)]


def test_bfloat16():
  exact = expected_of("cca")
  expected = expected_of("cca", dtype="bfloat16")
  model = torch_model.CCL(MODELS["cca"])
  tensors = {
    name: torch.tensor(x).to(torch_model.param_dtype(name, torch.bfloat16))
    for name, x in arrays("cca").items()
  }
  model.load_state_dict(tensors, strict=True, assign=True)
  got = model.requires_grad_(False)(*to_torch(inputs()))
  assert {x.dtype for x in got.values()} == {torch.float32}
  errors = error(expected, got), error(exact, expected), error(exact, got)
  print("bfloat16: to each other, jax, torch:", errors)
  assert max(errors) <= BOUND
  assert errors[2] <= 1.5 * errors[1]


def test_wrong_inputs_are_named():
  state, t, text, routes = to_torch(inputs())
  cut = state | {"audio": state["audio"][:, :4]}
  with pytest.raises(ValueError, match="same frames"):
    theirs("cca")(cut, t, text, routes)
  tokens = {"tokens": torch.zeros(B, 8, 6)}
  for kind, given in (
    ("cca", state),
    ("image", state),
    ("image", {"audio": 0}),
  ):
    with pytest.raises(ValueError, match=r"tokens of an image are \(9, 8, 6\)"):
      theirs(kind)(given, t, text, routes, tokens)


IN_CONTEXT = [k for k in MODELS if k.startswith("in context")]
PICTURES = [k for k in IN_CONTEXT if MODELS[k]["fusion"].get("references")]


@pytest.mark.parametrize("kind", PICTURES)
def test_velocity_told_of_reference_pictures(kind):
  """Two, one or none of them, with sound and without."""
  state, t, text, _ = inputs()
  yes, rng = jnp.ones(B, bool), np.random.default_rng(3)
  route = Route(
    {"video": jnp.arange(B) % 2 > 0, "audio": ~yes},
    {"video": yes, "audio": ~yes},
    yes,
  )
  t = t | {"audio": jnp.zeros(B)}
  image = {
    "references": rng.standard_normal((B, 2, H, W, 3), np.float32),
    "has_references": np.arange(2 * B).reshape(B, 2) % 3 > 0,
  }
  given = state, t, text, route
  params, velocity = ours(kind)
  expected = velocity(params, *given, Image(**image))
  found = error(
    {"video": expected["video"]},
    theirs(kind)(*to_torch(given), to_torch(image)),
  )
  print(kind, found)
  assert found <= LIMIT


@pytest.mark.parametrize("kind", IN_CONTEXT)
def test_velocity_of_audio_in_context(kind):
  """With sound, without it, and of the video alone."""
  (state, t, text, _), audio = inputs(), MODELS[kind]["audio"]
  off, yes = np.arange(B) % 3, jnp.ones(B, bool)
  route = Route(
    {"video": jnp.asarray(off != 1), "audio": ~yes},
    {"video": yes, "audio": ~yes},
    jnp.asarray(off != 2),
  )
  t = t | {"audio": jnp.zeros(B)}
  rng, m = np.random.default_rng(2), int(F * audio["tokens_per_frame"] + 0.5)
  audio = jnp.asarray(rng.normal(size=(B, m, 2)), "float32")
  given = {"video": state["video"], "audio": audio}, t, text, route
  expected, got = expected_of(kind, *given), theirs(kind)(*to_torch(given))
  assert not expected["audio"].any() and not got["audio"].any()
  found = error({"video": expected["video"]}, got)
  print(kind, found)
  assert found <= LIMIT
  alone = {"video": state["video"]}, {"video": t["video"]}, text, route
  got, silent = theirs(kind)(*to_torch(alone)), off == 1
  assert (
    error({"video": expected["video"][silent]}, {"video": got["video"][silent]})
    <= LIMIT
  )
