"""From a prompt (and an image, a sound or a video) to a clip.

    pipeline = Pipeline.load("runs/demo")
    clips = pipeline("t2av", ['A red face talks. "a i u" A low voice.'])
    clips[0].save("clip.mp4")

Everything needed lies in the workdir of a training run. Latents are sampled by
one compiled program per task and batch size; item i's noise comes from its own
seed, so a result does not depend on what else is in the batch.
"""

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import nnx
from jaxtyping import Float, UInt8

from ccl_jax.codecs.bundle import Codecs
from ccl_jax.config import build
from ccl_jax.data import records
from ccl_jax.data.decoding import ClipShape, Generated, decode
from ccl_jax.diffusion import flow, guidance, tasks
from ccl_jax.sampling import Sampling, sample_latents
from ccl_jax.sharding import ONE_DEVICE, Layout
from ccl_jax.training import checkpoint, restore
from ccl_jax.training.recipe import make_recipe
from ccl_jax.training.state import abstract_state, state_params
from ccl_jax.types import PyTree, State


@dataclasses.dataclass
class Pipeline:
  """A trained model with its codecs, ready to generate."""

  graph: nnx.GraphDef
  params: PyTree
  codecs: Codecs
  shape: ClipShape
  sampling: Sampling
  step: int
  layout: Layout = ONE_DEVICE

  @classmethod
  def load(
    cls, workdir: epath.PathLike, at: int | None = None, average: bool = True
  ) -> "Pipeline":
    """The newest checkpoint of a workdir, or the one of step `at`.

    average: the moving average of the parameters, else the last ones.

    Raises:
      ValueError: no run, no such checkpoint, no codecs.
    """
    workdir, config = epath.Path(workdir), checkpoint.read_config(workdir)
    recipe = make_recipe(config | {"mesh": {}}, jax.devices()[:1])
    shapes = state_params(abstract_state(recipe))
    params, at = restore.read_params(workdir, shapes, at, average)
    clip = json.loads((workdir / "clip.json").read_text())
    return cls(
      recipe.graph,
      params,
      Codecs.load(workdir / "codecs"),
      ClipShape(clip["fps"], clip["frames"], tuple(clip["size"])),
      build(Sampling, config["sampling"], "sampling"),
      at,
    )

  def __call__(
    self,
    task: str,
    prompts: Sequence[str],
    *,
    negative: str = "",
    images: Sequence[UInt8[np.ndarray, "y x 3"]] | None = None,
    audios: Sequence[Float[np.ndarray, " s"]] | None = None,
    videos: Sequence[UInt8[np.ndarray, "t y x 3"]] | None = None,
    seeds: Sequence[int] | None = None,
    sampling: Sampling | None = None,
  ) -> list[Generated]:
    """One clip per prompt; a given stream is returned with the generated one.

    Args:
      task: t2av, i2av, t2v, i2v, t2a, a2v or v2a.
      images, audios, videos: one per prompt, where the task takes them; of the
        model's size, rate and length (see `data.media`).

    Raises:
      ValueError: an unknown task, or an input that it lacks or cannot take.
    """
    given = self.encode_given(task, len(prompts), images, audios, videos)
    latents = self.latents(task, prompts, given, negative, seeds, sampling)
    clips = self.decode(latents)
    plan = tasks.inference_task(task)
    if "video" in plan.given:
      clips = [
        dataclasses.replace(c, video=v)
        for c, v in zip(clips, videos, strict=True)
      ]
    if "audio" in plan.given:
      clips = [
        dataclasses.replace(c, audio=a)
        for c, a in zip(clips, audios, strict=True)
      ]
    return clips

  def encode_given(self, task: str, num: int, images, audios, videos) -> State:
    """Latents of what the task is given: a first frame or a whole stream."""
    plan = tasks.inference_task(task)
    needed = {
      "image": plan.first_frame,
      "audio": "audio" in plan.given,
      "video": "video" in plan.given,
    }
    got = {"image": images, "audio": audios, "video": videos}
    for name, need in needed.items():
      if need != (got[name] is not None):
        state = "needs" if need else "takes no"
        raise ValueError(f"Task '{task}' {state} {name} input.")
      if need and len(got[name]) != num:
        raise ValueError(
          f"{len(got[name])} {name} inputs for {num} prompts: give one each."
        )
    given, shapes = {}, self.shape.latents(self.codecs)
    if videos is not None:
      given["video"] = self.codecs.video.encode(np.stack(videos))
    if images is not None:
      frames = np.stack(images)[:, None]
      given["video"] = self.codecs.video.encode(frames)
    if audios is not None:
      latents = self.codecs.audio.encode(np.stack(audios))
      m, _ = shapes["audio"]
      given["audio"] = np.stack([records.pad(x, m) for x in latents])
    return given

  def latents(
    self,
    task: str,
    prompts: Sequence[str],
    given: State,
    negative: str = "",
    seeds: Sequence[int] | None = None,
    sampling: Sampling | None = None,
  ) -> State:
    """Sampled latents, stream -> (b, ...), given streams included."""
    negatives = self.embed([negative])[0]
    text = self.embed(prompts)
    return self.sample(task, text, negatives, given, seeds, sampling)

  def sample(
    self,
    task: str,
    text: Float[np.ndarray, "b l d"],
    negative: Float[np.ndarray, "l d"],
    given: State,
    seeds: Sequence[int] | None = None,
    sampling: Sampling | None = None,
  ) -> State:
    """`latents`, for prompts that are embedded."""
    plan, sampling = tasks.inference_task(task), sampling or self.sampling
    shapes = self.shape.latents(self.codecs)
    num = len(text)
    seeds = range(num) if seeds is None else seeds
    # A mesh wants as many rows as it has shards; the last is repeated.
    rows = num + -num % self.layout.batch_shards()
    whole = np.minimum(np.arange(rows), num - 1)
    keys = jax.vmap(jax.random.key)(jnp.asarray(list(seeds), jnp.uint32))
    condition = {
      "text": text[whole],
      "negative": np.broadcast_to(negative, (rows, *negative.shape)),
    }
    row = guidance.row(sampling.guidance)
    if any(v.other == "null" for v in row.weights(sampling.scales["video"])):
      condition["null"] = self.null_latents
    made = sample_latents(
      self.params,
      flow.draw_noise(keys[whole], {s: shapes[s] for s in plan.streams}),
      {s: jnp.asarray(x)[whole] for s, x in given.items()},
      condition,
      graph=self.graph,
      task=task,
      sampling=sampling,
      layout=self.layout,
    )
    return {s: x[:num] for s, x in made.items()}

  def regenerate(
    self,
    task: str,
    clips: Mapping[str, Any],
    seeds: Sequence[int] | None = None,
    sampling: Sampling | None = None,
  ) -> State:
    """`latents` for `task`, given what it needs from clips of the data.

    clips: as of `data.pipeline.read_clips`; their text is not encoded again.
    """
    plan = tasks.inference_task(task)
    given = {s: clips[s] for s in plan.given}
    if plan.first_frame:
      given["video"] = clips["video"][:, :1]
    text, null = clips["text"], clips["null_text"]
    return self.sample(task, text, null, given, seeds, sampling)

  def embed(self, prompts: Sequence[str]) -> Float[np.ndarray, "b l d"]:
    """Text embeddings, padded with zeros to the encoder's length."""
    text = self.codecs.text
    return np.stack(
      [records.pad(x, text.max_length) for x in text.encode_all(prompts)]
    )

  @functools.cached_property
  def null_latents(self) -> dict[str, np.ndarray]:
    """A static grey video and silence, for the guidance called "sync"."""
    f, m = self.shape.frames, self.shape.latents(self.codecs)["audio"][0]
    samples = round(m * self.codecs.audio.sample_rate / self.codecs.audio.rate)
    grey = np.full((1, f, *self.shape.size, 3), 128, np.uint8)
    silence = np.zeros((1, samples), np.float32)
    return {
      "video": self.codecs.video.encode(grey),
      "audio": self.codecs.audio.encode(silence)[:, :m],
    }

  def decode(self, latents: State) -> list[Generated]:
    """Pixels and sound of each item; sound is cut to the video's length."""
    latents = {s: np.asarray(x) for s, x in latents.items()}
    return decode(latents, self.codecs, self.shape)
