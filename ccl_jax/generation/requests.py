"""Lists of what to generate, and the files that they name.

A line of a list is a JSON object,

    {"prompt": "A face talks.", "task": "a2v", "audio": "a.wav", "seed": 3,
     "negative": "", "name": "first"}

of which "prompt" must be there, and a path as "image", "audio" or "video" where
the task takes one.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from ccl_jax.config import check_keys
from ccl_jax.data import media
from ccl_jax.diffusion import tasks
from ccl_jax.generation.pipeline import Pipeline
from ccl_jax.generation.sampling import SamplingConfig

INPUTS = ("image", "audio", "video")


@dataclasses.dataclass(frozen=True)
class Request:
  """One thing to generate; `make_item` checks it.

  Attributes:
    name: of the files, without suffix; may have folders.
    image, audio, video: paths as they were given.
    where: the line it is from, for messages.
  """

  prompt: str
  task: str
  seed: int
  name: str
  negative: str = ""
  image: str | None = None
  audio: str | None = None
  video: str | None = None
  where: str = ""


def inputs(task: str) -> tuple[str, ...]:
  """Which of INPUTS a task takes."""
  plan = tasks.inference_task(task)
  first = ("image",) if plan.first_frame else ()
  return first + tuple(s for s in INPUTS if s in plan.given)


def make_item(fields: Mapping[str, Any], where: str = "") -> Request:
  """An item of what someone gave.

  Raises:
    ValueError: a field that is unknown, missing, of the wrong type or out of
      range, or an input that the task lacks or does not take.
  """
  types = {f.name: str for f in dataclasses.fields(Request)} | {"seed": int}
  check_keys(fields, types.keys() - {"where"}, "item")
  fields = {name: x for name, x in fields.items() if x is not None}
  if "prompt" not in fields:
    raise ValueError('expected a "prompt".')
  for name, value in fields.items():
    if type(value) is not types[name]:
      kind = {str: "text", int: "a whole number"}[types[name]]
      raise ValueError(f'"{name}" is {value!r}, expected {kind}.')
  item = Request(**fields, where=where)
  taken = inputs(item.task)
  for name in INPUTS:
    if (name in taken) != (getattr(item, name) is not None):
      verb = "needs" if name in taken else "takes no"
      raise ValueError(f"Task '{item.task}' {verb} --{name} (or \"{name}\").")
  if not 0 <= item.seed < 2**32:
    raise ValueError(f"seed {item.seed}: expected 0 or more, less than 2^32.")
  path = pathlib.PurePosixPath(item.name)
  if not path.name or path.is_absolute() or ".." in path.parts:
    raise ValueError(f"name '{item.name}': expected one below the folder.")
  return item


def read_list(
  path: epath.PathLike, defaults: Mapping[str, Any]
) -> tuple[list[Request], list[str]]:
  """The items of a file, and what is wrong with lines that are none.

  Args:
    defaults: fields for lines that lack them; "seed" is counted up.

  Raises:
    ValueError: no file, or nothing in it.
  """
  path = epath.Path(path)
  if not path.exists():
    raise ValueError(f"--prompts: there is no file '{path}'.")
  lines = enumerate(path.read_text().splitlines(), 1)
  lines = [(number, line) for number, line in lines if line.strip()]
  if not lines:
    raise ValueError(f"--prompts: '{path}' holds no line.")
  items: dict[str, Request] = {}
  problems = []
  for index, (number, line) in enumerate(lines):
    where = f"{path} line {number}"
    try:
      fields = defaults | {"seed": defaults["seed"] + index} | parse(line)
      fields = {"name": f"{fields['task']}_{index:04d}"} | fields
      item = make_item(fields, where)
      if item.name in items:
        there = items[item.name].where
        raise ValueError(f"name '{item.name}' is taken, by {there}.")
      items[item.name] = item
    except ValueError as error:
      problems.append(f"{where}: {error}")
  return list(items.values()), problems


def parse(line: str) -> dict[str, Any]:
  """The object in a line of JSON."""
  try:
    fields = json.loads(line)
  except json.JSONDecodeError as error:
    raise ValueError(f"not JSON ({error}).") from error
  if not isinstance(fields, dict):
    raise ValueError('expected an object with a "prompt".')
  return fields


def read_given(item: Request, pipeline: Pipeline) -> dict[str, np.ndarray]:
  """The item's inputs as the model takes them: size, rate and length.

  Raises:
    ClipError: a file that cannot be used, named.
  """
  shape, given = pipeline.shape, {}
  for name in inputs(item.task):
    path = getattr(item, name)
    if name == "image":
      given[name] = media.read_image(path, shape.size)
      continue
    clip = media.read_clip(
      path, fps=shape.fps, size=shape.size, frames=shape.frames,
      sample_rate=pipeline.codecs.audio.sample_rate,
      need_video=name == "video", need_audio=name == "audio",
    )  # fmt: skip
    given[name] = getattr(clip, name)
  return given


def unused(item: Request, pipeline: Pipeline) -> str:
  """Says how much of longer inputs is left out; "" if nothing is."""
  length = pipeline.shape.frames / pipeline.shape.fps
  for name in ("audio", "video"):
    path = getattr(item, name)
    if path is not None and (seconds := media.seconds(path)) > length + 0.5:
      return (
        f"{path}: only the first {length:.2f} s of {seconds:.0f} s are used"
      )
  return ""


def describe(
  item: Request, sampling: SamplingConfig, about: Mapping[str, Any]
) -> dict[str, Any]:
  """What the JSON beside a result says.

  about: whatever else it should say.
  """
  fields = dataclasses.asdict(item)
  del fields["where"]
  said = fields | {"sampling": dataclasses.asdict(sampling)} | dict(about)
  return json.loads(json.dumps(said))  # tuples as they will be read
