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
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import nnx
from jaxtyping import Float, UInt8

from ccl_jax.array_types import Array, PyTree, State
from ccl_jax.checkpoints import manager, restore
from ccl_jax.codecs.api import Codecs, forget
from ccl_jax.codecs.image_condition import make_image, stack_images
from ccl_jax.config import build, to_tuples
from ccl_jax.data import records
from ccl_jax.data.decoding import ClipShape, GeneratedClip, decode
from ccl_jax.diffusion import flow, guidance, tasks
from ccl_jax.generation.sampling import (
  AttentionProbe,
  SamplingConfig,
  sample_latents,
)
from ccl_jax.sharding import ONE_DEVICE, Layout
from ccl_jax.training.setup import sampling_setup
from ccl_jax.training.state import sampling_params


@dataclasses.dataclass
class Pipeline:
  """A trained model with its codecs, ready to generate.

  Attributes:
    params: the model's parameters; None where `read` gives them when they are
      first wanted.
    layout: where the model runs, over whose mesh rows go.
    offload: text encoder, codecs and model are in memory only in turn.
    model: its section of the config, which says what it is told of images.
    watch: called at every step of the sampler, with its sigma, from 1 to 0.
  """

  graph: nnx.GraphDef
  params: PyTree | None
  codecs: Codecs
  shape: ClipShape
  sampling: SamplingConfig
  step: int
  layout: Layout = ONE_DEVICE
  read: Callable[[], PyTree] | None = None
  offload: bool = False
  model: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  watch: Callable[[Any], None] | None = None

  @classmethod
  def load(
    cls,
    workdir: epath.PathLike,
    at: int | None = None,
    average: bool = True,
    *,
    mesh: Mapping[str, int] | None = None,
    offload: bool = False,
  ) -> "Pipeline":
    """The newest checkpoint of a workdir, or the one of step `at`.

    Args:
      average: the moving average of the parameters, else the last ones.
      mesh: arguments of `sharding.make_mesh` for all devices of this process;
        None takes the first of them.
      offload: see `Pipeline`.

    Raises:
      ValueError: no run, no such checkpoint, no codecs, or a mesh that does not
        fit.
    """
    workdir = epath.Path(workdir)
    config = to_tuples(manager.read_config(workdir))  # tuples, as they were
    devices = jax.local_devices()[: None if mesh else 1]
    setup = sampling_setup(config, devices, mesh)
    shapes = sampling_params(setup)
    _, at = restore.find(workdir, at)

    def read():
      return restore.read_params(workdir, shapes, at, average)[0]

    clip = json.loads((workdir / "clip.json").read_text())
    return cls(
      setup.graph,
      None if offload else read(),
      Codecs.load(workdir / "codecs", setup.layout),
      ClipShape(clip["fps"], clip["frames"], tuple(clip["size"])),
      build(SamplingConfig, config["sampling"], "sampling"),
      at,
      setup.layout,
      read,
      offload,
      setup.model,
    )

  def __call__(
    self,
    task: str,
    prompts: Sequence[str],
    *,
    negative: str | Sequence[str] = "",
    images: Sequence[UInt8[np.ndarray, "y x 3"]] | None = None,
    audios: Sequence[Float[np.ndarray, " s"]] | None = None,
    videos: Sequence[UInt8[np.ndarray, "t y x 3"]] | None = None,
    seeds: Sequence[int] | None = None,
    sampling: SamplingConfig | None = None,
  ) -> list[GeneratedClip]:
    """One clip per prompt; a given stream is returned with the generated one.

    Args:
      task: t2av, i2av, t2v, i2v, t2a, a2v or v2a.
      negative: one for all prompts, or one for each.
      images, audios, videos: one per prompt, where the task takes them; of the
        model's size, rate and length (see `data.media`).

    Raises:
      ValueError: an unknown task, or an input that it lacks or cannot take.
    """
    given = self.encode_given(task, len(prompts), images, audios, videos)
    self.free()
    latents = self.latents(task, prompts, given, negative, seeds, sampling)
    clips = self.decode(latents)
    self.free()
    came = {"video": videos, "audio": audios}
    given = tasks.inference_task(task).given
    return [
      dataclasses.replace(clip, **{s: came[s][i] for s in given})
      for i, clip in enumerate(clips)
    ]

  def encode_given(
    self, task: str, num: int, images, audios, videos
  ) -> dict[str, Any]:
    """Latents of a whole stream, or what makes a clip begin with an image."""
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
    self.shape.check(self.codecs, videos or (), audios or ())
    given, shapes = {}, self.shape.latents(self.codecs)
    if videos is not None:
      given["video"] = self.codecs.video.encode(np.stack(videos))
    if images is not None:
      given |= self.begin_with(stack_images(images, self.shape.size))
    if audios is not None:
      latents = self.codecs.audio.encode(np.stack(audios))
      m, _ = shapes["audio"]
      given["audio"] = np.stack([records.pad(x, m) for x in latents])
    return given

  @property
  def told(self) -> dict[str, bool]:
    """Which parts of an `Image` the model is told of, if of any."""
    video = self.model.get("video") or {}
    return {
      "latents": bool(video.get("condition_channels")),
      "tokens": bool(video.get("image_width")),
    }

  def begin_with(self, images: UInt8[np.ndarray, "b y x 3"]) -> dict[str, Any]:
    """What makes clips begin with images: told of them, or their latents."""
    if not any(self.told.values()):
      return {"video": self.codecs.video.encode(images[:, None])}
    frames = self.shape.frames
    return {"image": make_image(images, self.codecs, frames, **self.told)}

  def latents(
    self,
    task: str,
    prompts: Sequence[str],
    given: Mapping[str, Any],
    negative: str | Sequence[str] = "",
    seeds: Sequence[int] | None = None,
    sampling: SamplingConfig | None = None,
  ) -> State:
    """Sampled latents, stream -> (b, ...), given streams included."""
    negatives = [negative] if isinstance(negative, str) else negative
    both = self.embed([*prompts, *negatives])
    text, negatives = both[: len(prompts)], both[len(prompts) :]
    self.free()
    made = self.sample(task, text, negatives, given, seeds, sampling)
    self.free()
    return made

  def sample(
    self,
    task: str,
    text: Float[np.ndarray, "b l d"],
    negative: Float[np.ndarray, "*n l d"],
    given: Mapping[str, Any],
    seeds: Sequence[int] | None = None,
    sampling: SamplingConfig | None = None,
  ) -> State:
    """`latents`, for prompts that are embedded."""
    return self.look(None, task, text, negative, given, seeds, sampling)[0]

  def look(
    self, look: AttentionProbe | None, *args: Any
  ) -> tuple[State, dict[str, Array]]:
    """`sample`, and where cross-modal attention went in steps and layers.

    args: as of `sample`.

    Returns:
      The latents and the shares of `sampling.sample_latents`, with the clips
      in front: (b, steps, layers, ...).
    """
    num, (args, options) = len(args[1]), self.prepare(*args)
    made, shares = sample_latents(*args, **options, look=look)
    shares = {s: jnp.moveaxis(x, 2, 0)[:num] for s, x in shares.items()}
    return {s: x[:num] for s, x in made.items()}, shares

  def prepare(
    self, task: str, text, negative, given, seeds=None, sampling=None
  ) -> tuple[tuple, dict[str, Any]]:
    """Arguments of `sample_latents`, for those of `sample`."""
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
      "negative": np.broadcast_to(negative, text.shape)[whole],
    }
    given = jax.tree.map(lambda x: jnp.asarray(x)[whole], dict(given))
    if "image" in given:
      condition["image"] = given.pop("image")
    row = guidance.row(sampling.guidance)
    if any(v.other == "null" for v in row.weights(sampling.scales["video"])):
      condition["null"] = self.null_latents
    noise = flow.draw_noise(keys[whole], {s: shapes[s] for s in plan.streams})
    return (self.weights(), noise, given, condition), dict(
      graph=self.graph, task=task, sampling=sampling, layout=self.layout,
      watch=self.watch,
    )  # fmt: skip

  def regenerate(
    self,
    task: str,
    clips: Mapping[str, Any],
    seeds: Sequence[int] | None = None,
    sampling: SamplingConfig | None = None,
  ) -> State:
    """`latents` for `task`, given what it needs from clips of the data.

    clips: as of `data.loader.read_clips`; their text is not encoded again.
    """
    plan = tasks.inference_task(task)
    given = {s: clips[s] for s in plan.given}
    if plan.first_frame:
      given["video"] = clips["video"][:, :1]
    if plan.first_frame and any(self.told.values()):
      given = self.begin_with(self.codecs.video.decode(given["video"])[:, 0])
    text, null = clips["text"], clips["null_text"]
    return self.sample(task, text, null, given, seeds, sampling)

  def embed(self, prompts: Sequence[str]) -> Float[np.ndarray, "b l d"]:
    """Text embeddings, padded with zeros to the encoder's length.

    Raises:
      ValueError: as `check_prompt`.
    """
    text = self.codecs.text
    for prompt in prompts:
      self.check_prompt(prompt)
    return np.stack(
      [records.pad(x, text.max_length) for x in text.encode_all(prompts)]
    )

  def check_prompt(self, prompt: str) -> None:
    """Raises ValueError for more tokens than the model reads."""
    text = self.codecs.text
    if (found := text.num_tokens(prompt)) > text.max_length:
      raise ValueError(
        f"the prompt '{prompt[:40]}...' has {found} tokens; this model reads"
        f" {text.max_length}: shorten it."
      )

  def weights(self) -> PyTree:
    """The model's parameters, read now if they are not there."""
    if self.params is None:
      self.params = self.read()
    return self.params

  def free(self) -> None:
    """With `offload`, lets go of all weights; their next use reads them."""
    if self.offload:
      self.params = None
      for codec in filter(None, self.codecs):
        forget(codec)

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

  def decode(self, latents: State) -> list[GeneratedClip]:
    """Pixels and sound of each item; sound is cut to the video's length."""
    latents = {s: np.asarray(x) for s, x in latents.items()}
    return decode(latents, self.codecs, self.shape)
