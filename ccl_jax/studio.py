"""One request of a person: fields and uploads -> a clip, its mel and its files.

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
from jaxtyping import UInt8

from ccl_jax import prompts
from ccl_jax.data import media
from ccl_jax.data.decoding import Generated
from ccl_jax.metrics import pictures
from ccl_jax.pipeline import Pipeline
from ccl_jax.sampling import Sampling
from ccl_jax.training.checkpoint import write_json

# Results that are kept, so that the page can still send them.
_KEPT = 8
_SECONDS = 0.1  # between two looks at how far sampling is


@dataclasses.dataclass(frozen=True)
class Result:
  """What a request gives.

  Attributes:
    clip: the mp4, or wav where there is only sound.
    settings: the JSON that says how it was made.
    mel: a picture of the sound, None without sound.
    note: what was left out of the uploads, or nothing.
  """

  clip: pathlib.Path
  settings: pathlib.Path
  mel: UInt8[np.ndarray, "y x 3"] | None
  note: str


class Studio:
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
  ) -> Result:
    """One clip.

    Args:
      fields: of an item (`prompts`), but "name"; uploads that the task does not
        take are passed over.
      sampling: fields of `Sampling`.
      progress: told again and again how many steps are done, of how many.

    Raises:
      ValueError: a field, an upload or a setting that cannot be used.
    """
    try:
      return self._request(fields, sampling, progress)
    except ValueError as error:
      raise ValueError(plain(str(error), fields)) from error

  def _request(self, fields, sampling, progress) -> Result:
    item = self.item(fields)
    chosen = dataclasses.replace(self.pipeline.sampling, **sampling)
    given = prompts.read_given(item, self.pipeline)
    note = prompts.unused(item, self.pipeline)
    self._steps = 0
    with ThreadPoolExecutor(1) as thread:
      work = thread.submit(self._make, item, given, chosen)
      while not work.done():
        progress(min(self._steps, chosen.steps), chosen.steps)
        wait([work], timeout=_SECONDS)
      made = work.result()
    return self._save(item, chosen, made, plain(note, fields))

  def item(self, fields: Mapping[str, Any]) -> prompts.Item:
    """A checked item.

    Raises:
      ValueError: a field that cannot be used, or too long an upload.
    """
    taken = prompts.inputs(fields["task"])
    absent = {name for name in prompts.INPUTS if name not in taken}
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
    return prompts.make_item(fields | {"name": name})

  def _make(
    self, item: prompts.Item, given: dict[str, np.ndarray], sampling: Sampling
  ) -> Generated:
    (made,) = self.pipeline(
      item.task,
      [item.prompt],
      negative=item.negative,
      seeds=[item.seed],
      sampling=sampling,
      **{f"{name}s": [array] for name, array in given.items()},
    )
    return made

  def _save(
    self, item: prompts.Item, sampling: Sampling, made: Generated, note: str
  ) -> Result:
    folder = self.folder / str(next(self._requests) % _KEPT)
    shutil.rmtree(folder, ignore_errors=True)
    clip = pathlib.Path(made.save(folder / item.name))
    settings = clip.with_suffix(".json")
    names = {
      name: pathlib.Path(path).name
      for name in prompts.INPUTS
      if (path := getattr(item, name)) is not None
    }
    item = dataclasses.replace(item, **names)
    write_json(settings, prompts.describe(item, sampling, self.about))
    mel = None
    if made.mel is not None:
      mel = pictures.mel_picture(made.mel, (160, 640))
    return Result(clip, settings, mel, note)

  def _count(self, sigma: Any) -> None:
    self._steps += 1


def plain(text: str, fields: Mapping[str, Any]) -> str:
  """The text with uploads' names: nobody needs to know where they lie here."""
  for path in filter(None, (fields.get(name) for name in prompts.INPUTS)):
    text = text.replace(path, pathlib.Path(path).name)
  return text
