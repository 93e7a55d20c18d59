"""The trained model, its codecs and the shape of its clips."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from ccl_jax.array_types import PyTree
from ccl_jax.checkpoints import restore, run_config
from ccl_jax.codecs.api import Codecs, free_weights
from ccl_jax.config import build, to_tuples
from ccl_jax.convert.loras import open_lora
from ccl_jax.cost import flops
from ccl_jax.data.clip import ClipShape
from ccl_jax.diffusion import tasks
from ccl_jax.diffusion.solvers import OnStep
from ccl_jax.diffusion.tasks import InferenceTask
from ccl_jax.generation.clip_shapes import choose_shape, read_shapes
from ccl_jax.generation.requests import Request
from ccl_jax.generation.sampling_config import SamplingConfig
from ccl_jax.models.plan import ModelPlan, make_sampling_plan, sampling_params
from ccl_jax.params import trees


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
    size: Sequence[int] = (),
    seconds: float | None = None,
  ) -> "Components":
    """Loads a checkpoint from the workdir of a training run.

    Args:
      step: of the checkpoint, or "best"; None takes the newest.
      average: load the moving average of the parameters, else the last ones.
      mesh: arguments of `sharding.make_mesh` for all devices of this process;
        None takes the first of them.
      loras: "PATH" or "PATH:SCALE" of each LoRA to add, a run or a file.
      size, seconds: of one of the trained shapes, see `choose_shape`.

    Raises:
      ValueError: no run, no such checkpoint, no codecs, a mesh that does not
        fit, a LoRA of another model, or no clips of this size or length.
    """
    workdir = epath.Path(workdir)
    config = to_tuples(run_config.read(workdir))
    devices = jax.local_devices()[: None if mesh else 1]
    plan = make_sampling_plan(config, devices, mesh)
    _, step = restore.find_checkpoint(workdir, step)
    added = [open_lora(text, plan.settings) for text in loras]
    shape = choose_shape(read_shapes(workdir), size, seconds)
    codecs = Codecs.load(workdir / "codecs", plan.layout)
    sampling = build(SamplingConfig, config["sampling"], "sampling")
    objective = config.get("objective", {})
    shift_shape = objective.get("time_shift_shape", ())

    def read():
      shapes = sampling_params(plan)
      params, _ = restore.read_params(workdir, shapes, step, average)
      return trees.unflatten(restore.fold_lora(trees.flatten(params), *added))

    return cls(
      plan=plan,
      params=None if offload else read(),
      codecs=codecs,
      shape=shape,
      sampling=sampling.for_shapes(shape.latent_shapes(codecs), shift_shape),
      step=step,
      read_params=read,
      offload=offload,
      objective=objective,
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

  def describe_untrained(
    self, task: InferenceTask, has_picture: bool = False
  ) -> str:
    """Returns a note if the model was not trained for a task, or ""."""
    if set(task.generated) & set(self.plan.conditions):
      return ""  # an error, see `check_task`
    known = dict(self.objective)
    if any(self.plan.image_conditioning.values()):
      # It has learned first frames before this run, as Wan2.1-I2V.
      known.pop("first_frame_probability", None)
    return tasks.untrained(
      task, known, has_picture and self.plan.reads_references
    )

  @property
  def tasks(self) -> tuple[str, ...]:
    """Returns the names of the tasks that the model can do."""
    return tasks.possible_tasks(self.plan.streams, self.plan.conditions)

  def inputs_of(self, task: InferenceTask) -> tuple[str, ...]:
    """Returns the inputs that a task takes of this model's users."""
    return task.inputs + task.optional * self.plan.reads_references

  def check_task(self, task: InferenceTask) -> None:
    """Raises ValueError for a task that the model cannot do."""
    tasks.check_task(task, self.plan.streams, self.plan.conditions)

  def check_picture(self, request: Request) -> None:
    """Raises ValueError for a reference picture that the model cannot read."""
    if request.has_picture and not self.plan.reads_references:
      raise ValueError(
        f"task {request.task.name} got an image, and this model reads no"
        " reference picture: expected a run with model.fusion.references=True,"
        " or i2v or i2av, whose image is the first frame."
      )

  def load_params(self) -> PyTree:
    """Returns the model's parameters, after reading them if needed."""
    if self.params is None:
      self.params = self.read_params()
    return self.params

  def offload_weights(self) -> None:
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
