"""One request of a person: fields and uploads -> a clip, pictures, and files.

What the page (`app`) does, without the page.
"""

import dataclasses
import itertools
import pathlib
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import UInt8

from ccl_jax.codecs.mel import log_mel
from ccl_jax.data import media
from ccl_jax.diffusion import tasks
from ccl_jax.generation import requests
from ccl_jax.generation.batch import BatchGenerator
from ccl_jax.generation.pipeline import Pipeline
from ccl_jax.generation.sampling import AttentionProbe, spread
from ccl_jax.metrics import contact_sheet

# Results that are kept, so that the page can still send them.
_KEPT = 8
_SECONDS = 0.1  # between two looks at how far sampling is


@dataclasses.dataclass(frozen=True)
class Result:
  """What a request gives.

  Attributes:
    clip: the mp4, or wav where there is only sound.
    files: the clip, the JSON that says how it was made, and those of
      `attention_maps`.
    mel: a picture of the sound, None without sound.
    attention: a PNG of where cross-modal attention goes, if that was asked for
      and the task has both streams.
    note: what was left out of the uploads, or nothing.
  """

  clip: pathlib.Path
  files: tuple[pathlib.Path, ...]
  mel: UInt8[np.ndarray, "y x 3"] | None
  attention: pathlib.Path | None
  note: str


class Session:
  """Makes one clip at a time, and tells how far it is.

  Args:
    pipeline: is watched from now on.
    about: what the JSON says beside the request.
    folder: for results, of which the last few stay.
    max_seconds: of an upload.
  """

  def __init__(
    self,
    pipeline: Pipeline,
    about: Mapping[str, Any],
    folder: pathlib.Path,
    max_seconds: float = 300.0,
  ):
    # The same callable for every request: another would be another program.
    self.pipeline = dataclasses.replace(pipeline, watch=self._count)
    self.about, self.folder, self.max_seconds = about, folder, max_seconds
    self._requests, self._steps = itertools.count(), 0

  def request(
    self,
    fields: Mapping[str, Any],
    sampling: Mapping[str, Any],
    progress: Callable[[int, int], None] = lambda done, of: None,
    attention: bool = False,
  ) -> Result:
    """One clip.

    Args:
      fields: of an item (`prompts`), but "name"; uploads that the task does not
        take are passed over.
      sampling: fields of `SamplingConfig`.
      progress: told again and again how many steps are done, of how many.
      attention: whether to look at attention, which is another program.

    Raises:
      ValueError: a field, an upload or a setting that cannot be used.
    """
    try:
      return self._request(fields, sampling, progress, attention)
    except ValueError as error:
      raise ValueError(plain(str(error), fields)) from error

  def _request(self, fields, sampling, progress, attention) -> Result:
    item = self.item(fields)
    note = requests.unused(item, self.pipeline)
    maker = self._maker(item, sampling, attention)
    self._steps, steps = 0, maker.sampling.num_inference_steps
    with ThreadPoolExecutor(1) as thread:
      work = thread.submit(maker.run, [item])
      while not work.done():
        progress(min(self._steps, steps), steps)
        wait([work], timeout=_SECONDS)
    for problem in work.result():
      raise ValueError(problem)
    return result(maker, item, plain(note, fields))

  def item(self, fields: Mapping[str, Any]) -> requests.Request:
    """A checked item.

    Raises:
      ValueError: a field that cannot be used, or too long an upload.
    """
    taken = requests.inputs(fields["task"])
    absent = {name for name in requests.INPUTS if name not in taken}
    fields = {k: x for k, x in fields.items() if k not in absent}
    for name in taken:
      if fields.get(name) is None:
        raise ValueError(f"Task '{fields['task']}' needs {name}: upload one.")
      seconds = media.seconds(fields[name])
      if seconds > self.max_seconds:
        raise ValueError(
          f"{pathlib.Path(fields[name]).name} has {seconds:.1f} s, no more than"
          f" {self.max_seconds:g} s are taken here: cut it."
        )
    name = f"{fields['task']}_{fields['seed']}"
    return requests.make_item(fields | {"name": name})

  def _maker(
    self, item: requests.Request, sampling: Mapping[str, Any], attention: bool
  ) -> BatchGenerator:
    """Makes the item, in a folder where nothing is yet."""
    chosen = dataclasses.replace(self.pipeline.sampling, **sampling)
    look = None
    if attention and len(tasks.inference_task(item.task).streams) > 1:
      layers = self.pipeline.model["num_layers"]
      look = AttentionProbe(
        (chosen.num_inference_steps // 2,), tuple(spread(layers))
      )
    folder = self.folder / str(next(self._requests) % _KEPT)
    shutil.rmtree(folder, ignore_errors=True)
    names = {
      name: pathlib.Path(path).name
      for name in requests.INPUTS
      if (path := getattr(item, name)) is not None
    }
    return BatchGenerator(
      self.pipeline, chosen, epath.Path(folder), 1, {**self.about, **names},
      tell=lambda text: None, shows=False, look=look,
    )  # fmt: skip

  def _count(self, sigma: Any) -> None:
    self._steps += 1


def result(maker: BatchGenerator, item: requests.Request, note: str) -> Result:
  """What the maker has made of the item."""
  clip = pathlib.Path(maker.place(item))
  mel = None
  if "audio" in tasks.inference_task(item.task).streams:
    sound = media.read_clip(clip, need_video=False).audio
    mel = contact_sheet.mel_picture(log_mel(sound[None])[0], (160, 640))
  maps = sorted(clip.parent.glob("*.attention.*"))
  return Result(
    clip,
    (clip, clip.with_suffix(".json"), *maps),
    mel,
    next((file for file in maps if file.suffix == ".png"), None),
    note,
  )


def plain(text: str, fields: Mapping[str, Any]) -> str:
  """The text with uploads' names: nobody needs to know where they lie here."""
  for path in filter(None, (fields.get(name) for name in requests.INPUTS)):
    text = text.replace(path, pathlib.Path(path).name)
  return text
