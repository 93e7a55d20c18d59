"""One request of a page's visitor: fields and uploads -> clip, pictures, files.

It does the work of the page (`app.ui`), without its components.
"""

import dataclasses
import itertools
import pathlib
import re
import shutil
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import librosa.core.spectrum
import librosa.filters  # noqa: F401  # at its first use it may be too late
import numpy as np
from etils import epath
from jaxtyping import UInt8

from ccl_jax.data import contact_sheet, media
from ccl_jax.diffusion import tasks
from ccl_jax.generation import requests
from ccl_jax.generation.batch import BatchGenerator
from ccl_jax.generation.pipeline import Pipeline
from ccl_jax.generation.requests import Request
from ccl_jax.generation.sampling import AttentionProbe, first_middle_last

# Results that are kept, so that the page can still send them.
_KEPT = 8
_SECONDS = 0.1  # between two reports of the progress
MAX_CHARACTERS = 4000  # of a prompt


class Stopped(ValueError):
  """A request that its visitor has stopped."""


@dataclasses.dataclass(frozen=True)
class Result:
  """Files and pictures of a finished request.

  Attributes:
    clip: the mp4, or wav if there is only sound.
    files: the clip, its JSON, and those of `metrics.attention_plots`.
    mel: a picture of the sound, None without sound.
    attention: a PNG of cross-modal attention, if it was asked for and the task
      has both streams.
    note: how much of the uploads is unused, or "".
  """

  clip: pathlib.Path
  files: tuple[pathlib.Path, ...]
  mel: UInt8[np.ndarray, "y x 3"] | None
  attention: pathlib.Path | None
  note: str


class Session:
  """A pipeline that makes one clip at a time and reports its progress.

  Args:
    about: entries of the JSON of every result.
    folder: for results; the last few stay.
    max_seconds: length of an upload, at most.

  Attributes:
    steps_done: sampler steps of the current request.
  """

  # Whose request runs, if any, and whether it shall stop.
  _owner: str | None = None
  _is_stopped = _is_closed = False

  def __init__(
    self,
    pipeline: Pipeline,
    about: Mapping[str, Any],
    folder: pathlib.Path,
    max_seconds: float = 300.0,
  ):
    # One callable for every request: each would be another compiled program.
    self.pipeline = dataclasses.replace(pipeline, on_step=self._count_step)
    self.about, self.folder, self.max_seconds = about, folder, max_seconds
    self._num_requests, self.steps_done = itertools.count(), 0
    self._lock, self._compiled = threading.Lock(), set()

  def request(
    self,
    fields: Mapping[str, Any],
    sampling: Mapping[str, Any],
    progress: Callable[[str, int, int], None] = lambda stage, done, of: None,
    attention: bool = False,
    owner: str = "",
  ) -> Result:
    """Generates one clip; a second call waits for the first.

    Args:
      fields: of a request, but "name"; uploads that the task does not take are
        ignored.
      sampling: fields of `SamplingConfig`.
      progress: called repeatedly with the stage (Reading, Compiling,
        Sampling, Decoding), the number of finished steps and of all steps.
      attention: whether to draw attention, which compiles another program.
      owner: who may `stop` it.

    Raises:
      Stopped: by its owner.
      ValueError: a field, an upload or a setting that cannot be used.
    """
    with self._lock:
      self._owner, self._is_stopped = owner, False
      if self._is_closed:
        raise Stopped("The page has ended.")
      try:
        return self._request(fields, sampling, progress, attention)
      except Exception as error:
        if self._is_stopped:
          raise Stopped("Stopped.") from error
        if isinstance(error, ValueError):
          raise ValueError(hide_paths(str(error), fields)) from error
        raise
      finally:
        self._owner = None

  def stop(self, owner: str) -> None:
    """Stops this owner's request, and no other, at its next step."""
    if owner == self._owner:
      self._is_stopped = True

  def close(self) -> None:
    """Stops what runs and waits for its end; further requests are refused."""
    self._is_closed = True  # first: a request clears the other, then asks this
    self._is_stopped = True
    with self._lock:
      pass

  def _request(self, fields, sampling, progress, attention) -> Result:
    request = self.make_request(fields)
    task, has_picture = request.task, request.has_picture
    unused = requests.describe_unused(request, self.pipeline.shape)
    untrained = self.pipeline.describe_untrained(task, has_picture)
    note = "; ".join(filter(None, (unused, untrained)))
    generator = self._generator(request, sampling, attention)
    sampling, probe = generator.sampling, generator.probe
    self.steps_done, steps = 0, sampling.num_inference_steps
    program = task, has_picture, sampling, probe
    first = "Reading" if program in self._compiled else "Compiling"
    with ThreadPoolExecutor(1) as thread:
      work = thread.submit(generator.run, [request])
      while not work.done():
        done = min(self.steps_done, steps)
        sampled = "Decoding" if done == steps else "Sampling"
        progress(sampled if done else first, done, steps)
        wait([work], timeout=_SECONDS)
    for problem in work.result():
      raise ValueError(problem)
    if self._is_stopped:
      raise Stopped("Stopped.")
    self._compiled.add(program)
    return collect_result(generator, request, hide_paths(note, fields))

  def make_request(self, fields: Mapping[str, Any]) -> Request:
    """Makes a request from the page's fields; ValueError if it cannot."""
    # An empty field of the page may be None.
    fields = fields | {n: fields[n] or "" for n in ("prompt", "negative")}
    if not fields["prompt"].strip():
      raise ValueError("The prompt is empty: say what is seen and heard.")
    for name in ("prompt", "negative"):
      if (found := len(fields[name])) > MAX_CHARACTERS:
        raise ValueError(
          f"The {name} has {found:,} characters, no more than"
          f" {MAX_CHARACTERS:,} are taken here: shorten it."
        )
    if fields["seed"] is None:
      raise ValueError("The seed is empty: expected a whole number from 0.")
    taken = self.pipeline.inputs_of(tasks.inference_task(fields["task"]))
    ignored = set(requests.INPUTS) - set(taken)
    fields = {k: x for k, x in fields.items() if k not in ignored}
    timed = [fields.get(name) for name in taken if name != "image"]
    for path in filter(None, timed):
      seconds = media.declared_duration(path)
      if seconds > self.max_seconds:
        raise ValueError(
          f"{pathlib.Path(path).name} has {seconds:.1f} s, no more than"
          f" {self.max_seconds:g} s are taken here: cut it."
        )
    name = f"{fields['task']}_{fields['seed']}"
    return requests.make_request(fields | {"name": name})

  def _generator(
    self, request: Request, sampling: Mapping[str, Any], attention: bool
  ) -> BatchGenerator:
    """Returns a generator into an empty folder."""
    for name, value in sampling.items():
      if value is None:
        label = name.replace("_", " ").capitalize()
        raise ValueError(f"{label} is empty: expected a value.")
    chosen = dataclasses.replace(self.pipeline.sampling, **sampling)
    probe = None
    if attention and len(request.task.streams) > 1:
      layers = first_middle_last(self.pipeline.plan.num_layers)
      probe = AttentionProbe((chosen.num_inference_steps // 2,), layers)
    folder = self.folder / str(next(self._num_requests) % _KEPT)
    shutil.rmtree(folder, ignore_errors=True)
    about = dict(self.about)
    for name in requests.INPUTS:
      if path := getattr(request, name):
        about[name] = pathlib.Path(path).name
    return BatchGenerator(
      self.pipeline, chosen, epath.Path(folder), 1, about,
      warn=lambda text: None, show_progress=False, probe=probe,
    )  # fmt: skip

  def _count_step(self, sigma: Any) -> None:
    if self._is_stopped:
      raise Stopped("Stopped.")  # JAX ends the program with it
    self.steps_done += 1


def collect_result(
  generator: BatchGenerator, request: Request, note: str
) -> Result:
  """Returns the files that the generator has written for the request."""
  clip, mel = pathlib.Path(generator.output_path(request)), None
  if "audio" in request.task.streams:
    sound = media.read_clip(clip, streams=("audio",)).audio
    mel = contact_sheet.sound_image(sound, (160, 640))
  maps = sorted(clip.parent.glob("*.attention.*"))
  files = (clip, clip.with_suffix(".json"), *maps)
  picture = next((file for file in maps if file.suffix == ".png"), None)
  return Result(clip, files, mel, picture, note)


def hide_paths(text: str, fields: Mapping[str, Any]) -> str:
  """Replaces paths of uploads, and absolute ones, by their last names."""
  for path in filter(None, (fields.get(name) for name in requests.INPUTS)):
    text = text.replace(path, pathlib.Path(path).name)
  text = re.sub(r"'/[^']*/([^'/]*)'", r"'\1'", text)  # with blanks
  return re.sub(r"(?<![\w/:.])/(?:[^\s/'\"]+/)+", "", text)
