"""The image transformer against diffusers' DiTTransformer2DModel."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.array_types import STREAMS, Route, expand
from ccl_jax.checkpoints import restore
from ccl_jax.convert import dit, matching, transformer
from ccl_jax.convert.state_dict import iter_state_dict, state_dict_shapes
from ccl_jax.convert.torch_files import LazyStateDict
from ccl_jax.diffusion import solvers
from ccl_jax.models import functional
from ccl_jax.ops import noise_schedule
from ccl_jax.params import trees
from tests.convert.loading import from_dict, load

torch = pytest.importorskip("torch")
CLASSES = 5
TINY = dict(
  num_layers=3,
  text_width=CLASSES,
  video=dict(
    backbone="dit", width=32, ffn=128, heads=2, channels=3, patch=2,
    learns_variance=True, prediction_type="epsilon",
  ),
)  # fmt: skip
ALONE = dict(audio=None, fusion=dict(kind="independent"), dtype="float32")


def recognise(state):
  return matching.recognise(
    state.shapes, dit.SIZES, dit.tables, transformer.param_shapes
  )


def original(settings=TINY, size=6, device="cpu"):
  from diffusers import DiTTransformer2DModel

  video = settings["video"]
  with torch.device(device):
    model = DiTTransformer2DModel(
      num_attention_heads=video["heads"],
      attention_head_dim=video["width"] // video["heads"],
      in_channels=video["channels"],
      out_channels=2 * video["channels"],
      num_layers=settings["num_layers"],
      sample_size=size,
      num_embeds_ada_norm=settings["text_width"],
      norm_eps=1e-6,
    ).eval()
  # facebookresearch/DiT, whose weights are published, has frequencies of i / n;
  # diffusers' class of i / (n - 1).
  for block in model.transformer_blocks:
    block.norm1.emb.time_proj.downscale_freq_shift = 0
  return model.requires_grad_(False)


def randomize(module):
  """Nothing is zero; the embedder that all blocks have a copy of is one."""
  generator = torch.Generator().manual_seed(0)
  for p in module.parameters():
    fan_in = p[0].numel() if p.ndim > 1 else 10
    p.copy_(torch.randn(p.shape, generator=generator) / fan_in**0.5)
  first, *others = (b.norm1.emb for b in module.transformer_blocks)
  for emb in others:
    emb.load_state_dict(first.state_dict())
  return module


@functools.cache
def pair():
  """The same random model twice, and its arrays."""
  module = randomize(original())
  arrays = {name: x.numpy() for name, x in module.state_dict().items()}
  graph, shapes = functional.describe(TINY | ALONE)
  params = load(from_dict(arrays), dit.tables(TINY)["diffusers"], shapes)
  return module, graph, params, arrays


def one_hot(labels):
  """Classes as texts of one token; no class, the last of theirs, is zeros."""
  return jnp.asarray(np.eye(CLASSES + 1, CLASSES)[labels][:, None], jnp.float32)


@functools.partial(jax.jit, static_argnums=0)
def run(graph, params, latents, times, text):
  yes = jnp.ones(len(latents), bool)
  route = Route(dict.fromkeys(STREAMS, ~yes), dict.fromkeys(STREAMS, yes), ~yes)
  state, t = {"video": latents}, {"video": times}
  return functional.velocity(graph, params, state, t, text, route)["video"]


def test_its_output_equals_that_of_diffusers():
  module, graph, params, _ = pair()
  rng = np.random.default_rng(0)
  latents = rng.standard_normal((4, 6, 6, 3), np.float32)
  steps, labels = np.array([999, 500, 3, 0]), np.array([0, 4, 2, CLASSES])
  theirs = module(
    torch.from_numpy(np.moveaxis(latents, -1, 1).copy()),
    torch.from_numpy(steps),
    class_labels=torch.from_numpy(labels),
  ).sample.numpy()
  t = jnp.asarray(noise_schedule.STEP_TIMES[steps], jnp.float32)
  x_t = latents[:, None] * expand(jnp.hypot(t, 1 - t), 5)  # x_k up to scale
  ours = run(graph, params, x_t, t, one_hot(labels))
  epsilon = x_t + expand(1 - t, 5) * ours
  theirs = np.moveaxis(theirs, 1, -1)[:, None, ..., :3]  # without the variance
  np.testing.assert_allclose(epsilon, theirs, rtol=1e-4, atol=1e-4)
  assert np.abs(theirs).mean() > 0.1


def test_euler_on_the_times_of_steps_is_ddim_of_diffusers():
  from diffusers import DDIMScheduler

  module, graph, params, _ = pair()
  scheduler = DDIMScheduler(
    beta_start=1e-4, beta_end=0.02, clip_sample=False, set_alpha_to_one=True,
    timestep_spacing="trailing",
  )  # fmt: skip
  scheduler.set_timesteps(8)
  rng = np.random.default_rng(1)
  start, labels = (
    rng.standard_normal((2, 6, 6, 3), np.float32),
    np.array([1, 5]),
  )
  x = torch.from_numpy(np.moveaxis(start, -1, 1).copy())
  for k in scheduler.timesteps:
    classes = torch.from_numpy(labels)
    made = module(x, k.expand(2), class_labels=classes).sample[:, :3]
    x = scheduler.step(made, k, x, eta=0.0).prev_sample

  times = noise_schedule.STEP_TIMES[scheduler.timesteps.numpy()]
  first = np.hypot(times[0], 1 - times[0])
  noise = jnp.asarray(start[:, None] * first, jnp.float32)
  text = one_hot(labels)
  found, _ = solvers.solve(
    lambda state, t, _: {
      "video": run(graph, params, state["video"], t["video"], text)
    },
    {"video": noise}, {}, {}, {"video": np.append(times, 0)}, "euler", None,
  )  # fmt: skip
  expected = np.moveaxis(x.numpy(), 1, -1)[:, None]
  error = np.linalg.norm(found["video"] - expected) / np.linalg.norm(expected)
  assert error < 1e-3


@pytest.mark.parametrize("scheme", ["dit", "diffusers"])
def test_published_files_are_read(scheme, tmp_path, monkeypatch):
  """A `.pt` of facebookresearch/DiT, or a folder of diffusers."""
  module, _, params, _ = pair()
  monkeypatch.setitem(dit.SIZES, "tiny", TINY)
  path = tmp_path / "DiT.pt"
  if scheme == "dit":
    theirs = dict(iter_state_dict(params, dit.tables(TINY)["dit"]))
    theirs = {k: torch.from_numpy(np.array(x)) for k, x in theirs.items()}
    torch.save(theirs | {"pos_embed": torch.zeros(1, 9, 32)}, path)
  else:
    path = tmp_path / "pipeline"
    module.save_pretrained(path / "transformer")
  about = transformer.from_torch(path, tmp_path / "out", family="dit")
  assert (about["size"], about["layout"]) == ("tiny", scheme)
  shapes = transformer.param_shapes(TINY)
  found, _ = restore.read_params(tmp_path / "out", shapes)
  for name, x in trees.flatten(params).items():
    np.testing.assert_allclose(
      trees.flatten(found)[name], x, rtol=1e-6, atol=1e-6, err_msg=name
    )


def test_xl_2_has_the_published_parameters_and_names():
  """675M, as facebookresearch/DiT counts them: with 256 fixed positions."""
  settings = dit.SIZES["xl-2"]
  ours = trees.flatten(transformer.param_shapes(settings))
  assert trees.count(ours) + 256 * 1152 == 675_129_632
  theirs = original(settings, 32, "meta").state_dict()
  shapes = {
    name: jax.ShapeDtypeStruct(tuple(x.shape), np.float32)
    for name, x in theirs.items()
  }
  assert matching.match(dit.tables(settings)["diffusers"], shapes, ours)
  state = LazyStateDict("meta", shapes, theirs.get, {})
  found = recognise(state)
  assert found == ("xl-2", "diffusers")


@pytest.mark.parametrize("size", dit.SIZES)
def test_the_size_of_a_file_is_recognised(size):
  """Of the same depth too, and beside positions, which are not read."""
  settings = dit.SIZES[size]
  table, ours = dit.tables(settings)["dit"], transformer.param_shapes(settings)
  shapes = state_dict_shapes(ours, table, np.dtype("float32"))
  d = settings["video"]["width"]
  shapes["pos_embed"] = jax.ShapeDtypeStruct((1, 256, d), np.float32)
  state = LazyStateDict("memory", shapes, shapes.get, {})
  assert recognise(state) == (size, "dit")


def test_another_file_is_one_error(tmp_path):
  torch.save({"x": torch.zeros(2)}, tmp_path / "x.pt")
  with pytest.raises(ValueError, match="not in the file"):
    transformer.from_torch(
      tmp_path / "x.pt", tmp_path / "out", family="dit", sizes={"tiny": TINY}
    )
  assert not (tmp_path / "out").exists()
