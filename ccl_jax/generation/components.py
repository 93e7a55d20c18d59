"""The trained model, its codecs and what describes its clips."""

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from ccl_jax import trees
from ccl_jax.array_types import PyTree
from ccl_jax.checkpoints import manager, restore
from ccl_jax.codecs.api import Codecs, free_weights
from ccl_jax.config import build, to_tuples
from ccl_jax.convert.loras import open_lora
from ccl_jax.cost import flops
from ccl_jax.data.clip import ClipShape
from ccl_jax.diffusion import tasks
from ccl_jax.diffusion.solvers import OnStep
from ccl_jax.diffusion.tasks import InferenceTask
from ccl_jax.generation.sampling_config import SamplingConfig
from ccl_jax.models.plan import ModelPlan, make_sampling_plan, sampling_params


@dataclasses.dataclass
class Components:
  """All that generation needs, loaded or to be loaded.

  Attributes:
    plan: the model and where it lives; batches are split over its mesh.
    params: the model's parameters; None until `read_params` is first needed.
    codecs: text encoder, video and audio codecs.
    shape: frame rate, frames and size of the clips.
    sampling: default settings.
    step: of the checkpoint.
    read_params: reads the parameters.
    offload: keep text encoder, codecs and model in memory only in turn.
    on_step: called at every step of the sampler with its sigma, from 1 to 0.
    objective: the section of the run's config; {} if it is not known.
  """

  plan: ModelPlan
  params: PyTree | None
  codecs: Codecs
  shape: ClipShape
  sampling: SamplingConfig
  step: int
  read_params: Callable[[], PyTree] | None = None
  offload: bool = False
  on_step: OnStep | None = None
  objective: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  @classmethod
  def load(
    cls,
    workdir: epath.PathLike,
    step: int | str | None = None,
    average: bool = True,
    *,
    mesh: Mapping[str, int] | None = None,
    offload: bool = False,
    loras: Sequence[str] = (),
  ) -> "Components":
    """Loads a checkpoint from the workdir of a training run.

    Args:
      step: of the checkpoint, or "best"; None takes the newest.
      average: load the moving average of the parameters, else the last ones.
      mesh: arguments of `sharding.make_mesh` for all devices of this process;
        None takes the first of them.
      offload: see the class.
      loras: "PATH" or "PATH:SCALE" of each LoRA to add, a run or a file.

    Raises:
      ValueError: no run, no such checkpoint, no codecs, a mesh that does not
        fit, or a LoRA of another model.
    """
    workdir = epath.Path(workdir)
    config = to_tuples(manager.read_config(workdir))
    devices = jax.local_devices()[: None if mesh else 1]
    plan = make_sampling_plan(config, devices, mesh)
    _, step = restore.find_checkpoint(workdir, step)
    added = [open_lora(text, plan.settings) for text in loras]

    def read_params():
      shapes = sampling_params(plan)
      params = restore.read_params(workdir, shapes, step, average)[0]
      leaves = trees.flatten(params)
      for factors in added:
        leaves = restore.fold_lora(leaves, factors)
      return trees.unflatten(leaves)

    return cls(
      plan=plan,
      params=None if offload else read_params(),
      codecs=Codecs.load(workdir / "codecs", plan.layout),
      shape=ClipShape.from_dict(
        json.loads((workdir / "clip.json").read_text())
      ),
      sampling=build(SamplingConfig, config["sampling"], "sampling"),
      step=step,
      read_params=read_params,
      offload=offload,
      objective=config.get("objective", {}),
    )

  def flop_shape(self, task: InferenceTask) -> flops.Shape:
    """Returns the sizes that the FLOPs of one clip are counted from."""
    f, h, w, _ = self.latent_shapes["video"]
    times = f if task.first_frame else 1
    return flops.Shape(f, h, w, self.codecs.text.max_length, times=times)

  @property
  def latent_shapes(self) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of one clip's latents, as the model takes them."""
    audio = self.plan.settings["audio"] or {}
    return self.shape.latent_shapes(self.codecs, audio.get("tokens_per_frame"))

  def describe_untrained(self, task: InferenceTask) -> str:
    """Returns a note if the model was not trained for a task, or ""."""
    known = dict(self.objective)
    if any(self.plan.image_conditioning.values()):
      # It has learned first frames before this run, as Wan2.1-I2V.
      known.pop("first_frame_probability", None)
    return tasks.untrained(task, known)

  def load_params(self) -> PyTree:
    """Returns the model's parameters, after reading them if needed."""
    if self.params is None:
      self.params = self.read_params()
    return self.params

  def free(self) -> None:
    """Frees all weights if they are offloaded; their next use reads them."""
    if self.offload:
      self.params = None
      for codec in filter(None, self.codecs):
        free_weights(codec)

  @functools.cached_property
  def null_latents(self) -> dict[str, np.ndarray]:
    """Encodes a static grey video and silence, for the guidance "sync"."""
    f, m = self.shape.frames, self.latent_shapes["audio"][0]
    samples = round(m * self.codecs.audio.sample_rate / self.codecs.audio.rate)
    grey = np.full((1, f, *self.shape.size, 3), 128, np.uint8)
    silence = np.zeros((1, samples), np.float32)
    return {
      "video": self.codecs.video.encode(grey),
      "audio": self.codecs.audio.encode(silence)[:, :m],
    }
