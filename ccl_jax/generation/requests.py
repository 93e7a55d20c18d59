"""Requests: what to generate, from a list, from Python or from encoded clips.

A line of a list is a JSON object,

    {"prompt": "A face talks.", "task": "a2v", "audio": "a.wav", "seed": 3,
     "negative": "", "name": "first"}

where "prompt" is required, and the task's inputs are paths as "image", "audio"
or "video".
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from ccl_jax.config import suggest
from ccl_jax.data import media
from ccl_jax.data.clip import MAX_BYTES, ClipShape
from ccl_jax.diffusion import tasks
from ccl_jax.storage.text_files import (
  check_line,
  parse_object,
  read_unchecked_lines,
)

INPUTS = ("image", "audio", "video")
_MAX_NAME, _MAX_PARTS = 1000, 20  # bytes, and folders with the file
_MAX_PATH, _MAX_PART = 4096, 255  # bytes of a path that a disk takes
_SHOWN = 40  # characters of a value in a message
# Fields that users write, with their types.
_TYPES = {"seed": int} | dict.fromkeys(
  ("prompt", "task", "name", "negative", *INPUTS), str
)


@dataclasses.dataclass(frozen=True, eq=False)
class Request:
  """One clip to generate; made and checked by the functions of this module.

  Attributes:
    name: of the result's files, without suffix; may contain folders.
    image, audio, video: a path or an array, where the task takes one.
    where: the line of a list that it is from, for messages.
    text: the prompt and the negative prompt if they are embedded already.
    latents: of the inputs if they are encoded already: of a full stream, the
      first frame of the video, or a "picture".
  """

  prompt: str
  task: tasks.InferenceTask
  seed: int
  name: str = ""
  negative: str = ""
  image: Any = None
  audio: Any = None
  video: Any = None
  where: str = ""
  text: tuple[np.ndarray, np.ndarray] | None = None
  latents: dict[str, Any] | None = None

  @property
  def has_picture(self) -> bool:
    """Returns whether it has a reference picture; no first frame is one."""
    is_encoded = "picture" in (self.latents or ())
    return is_encoded or (self.task.reference and self.image is not None)


def make_request(fields: Mapping[str, Any], where: str = "") -> Request:
  """Makes a request from fields that a user wrote.

  Args:
    fields: prompt, task, seed, name and, as needed, the others of `Request`;
      inputs are paths, or arrays from Python.

  Raises:
    ValueError: a field that is unknown, missing, of the wrong type or out of
      range, or an input that the task lacks or does not take.
  """
  for key in fields:
    if key not in _TYPES:
      raise ValueError(
        f"Unknown key '{cut(key)}' of a prompt.{suggest(key, _TYPES)}"
        f" Known keys: {', '.join(sorted(_TYPES))}."
      )
  fields = {
    name: int(x) if isinstance(x, np.integer) else x
    for name, x in fields.items()
    if x is not None
  }
  for name in ("prompt", "task", "seed", "name"):
    if name not in fields:
      raise ValueError(f'expected a "{name}".')
  for name, value in fields.items():
    is_array = name in INPUTS and isinstance(value, np.ndarray)
    if type(value) is not _TYPES[name] and not is_array:
      kind = {str: "text", int: "a whole number"}[_TYPES[name]]
      raise ValueError(f'"{name}" is {cut(repr(value))}, expected {kind}.')
    if isinstance(value, str):
      _check_text(name, value)
  task = tasks.inference_task(fields["task"])
  check_inputs(task, fields)
  path = pathlib.PurePosixPath(fields["name"])
  _check_name(path)
  request = Request(**fields | {"task": task, "name": str(path)}, where=where)
  if not 0 <= request.seed < 2**32:
    raise ValueError(
      f"seed {cut(str(request.seed))}: expected 0 or more, less than 2^32."
    )
  return request


def cut(text: str) -> str:
  """Returns a text as messages show it: the first 40 characters."""
  return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _check_name(path: pathlib.PurePosixPath) -> None:
  """Raises ValueError if such files cannot be made below the output folder."""
  shown = f"name '{cut(str(path))}'"
  if not path.name or path.is_absolute() or ".." in path.parts:
    raise ValueError(f"{shown}: expected one below the folder.")
  size, parts = len(str(path).encode()), len(path.parts)
  longest = max(len(part.encode()) for part in path.parts)
  if longest > MAX_BYTES or size > _MAX_NAME or parts > _MAX_PARTS:
    raise ValueError(
      f"{shown} has {size} bytes in {parts} parts: expected at most {MAX_BYTES}"
      f" bytes in each, {_MAX_NAME} in all and {_MAX_PARTS} parts."
    )


def _check_text(name: str, text: str) -> None:
  """Raises ValueError for a text that can be no prompt, or no path.

  It has half of a surrogate pair or, in a path, NUL or a part that is too long.
  """
  shown = cut(repr(text))
  try:
    text.encode()
  except UnicodeEncodeError as error:
    raise ValueError(f'"{name}" has half a character: {shown}.') from error
  if "\0" in text and name not in ("prompt", "negative"):
    raise ValueError(f'"{name}" is {shown}: a path has no NUL.')
  size = len(text.encode())
  longest = max(len(part.encode()) for part in text.split("/"))
  if name in INPUTS and (size > _MAX_PATH or longest > _MAX_PART):
    raise ValueError(
      f'"{name}" is {shown} of {size} bytes: a path has at most {_MAX_PATH},'
      f" and {_MAX_PART} in each part."
    )


def check_inputs(task: tasks.InferenceTask, fields: Mapping[str, Any]) -> None:
  """Raises ValueError for an input that is missing or not of the task."""
  for name in INPUTS:
    is_given = fields.get(name) is not None
    if is_given and name in task.optional:
      continue
    if (name in task.inputs) != is_given:
      verb = "needs" if name in task.inputs else "takes no"
      raise ValueError(f"Task '{task.name}' {verb} {name}.")


def read_list(
  path: epath.PathLike, defaults: Mapping[str, Any], has_maps: bool = False
) -> tuple[list[Request], list[str]]:
  """Reads a list: its requests, and a message for each invalid line.

  Args:
    defaults: fields for lines that lack them; "seed" increases by 1 a line.
    has_maps: whether NAME.attention is the name of files too.

  Raises:
    ValueError: no such file, or an empty one.
  """
  path = epath.Path(path)
  if not path.exists():
    raise ValueError(f"--prompts: there is no file '{path}'.")
  try:
    lines = enumerate(read_unchecked_lines(path), 1)
  except ValueError as error:
    raise ValueError(f"--prompts: {error}") from error
  lines = [(number, line) for number, line in lines if line.strip()]
  if not lines:
    raise ValueError(f"--prompts: '{path}' holds no line.")
  requests, problems = [], []
  taken: dict[str, str] = {}
  for index, (number, line) in enumerate(lines):
    where = f"{path} line {number}"
    try:
      check_line(line)
      fields = {**defaults, "seed": defaults["seed"] + index}
      fields |= parse_object(line)
      fields = {"name": f"{fields['task']}_{index:04d}"} | fields
      request = make_request(fields, where)
      names = [request.name, f"{request.name}.attention"][: 1 + has_maps]
      for name in filter(taken.get, names):
        raise ValueError(f"name '{cut(name)}' is taken, by {taken[name]}.")
      taken |= dict.fromkeys(names, where)
      requests.append(request)
    except ValueError as error:
      problems.append(f"{where}: {error}")
  return requests, problems


def from_clips(
  task: tasks.InferenceTask,
  clips: Mapping[str, Any],
  seeds: Sequence[int] | None = None,
  has_pictures: bool = False,
) -> list[Request]:
  """Makes requests for the prompts and inputs of encoded clips.

  Args:
    clips: from `data.loader.read_clips`; neither text nor inputs are encoded
      again.
    seeds: one per clip; 0, 1, ... if None.
    has_pictures: where the task takes a reference picture, that is the clip's
      first latent frame.
  """
  sources = {s: (s, slice(None)) for s in task.given}
  if task.first_frame:
    sources["video"] = ("video", slice(1))
  if has_pictures and task.reference:
    sources["picture"] = ("video", slice(1))
  seeds = range(len(clips["text"])) if seeds is None else seeds
  return [
    Request(
      prompt="",
      task=task,
      seed=seed,
      text=(text, clips["null_text"]),
      latents={k: clips[s][i][part] for k, (s, part) in sources.items()},
    )
    for i, (text, seed) in enumerate(zip(clips["text"], seeds, strict=True))
  ]


def read_inputs(
  request: Request, shape: ClipShape, sample_rate: int
) -> dict[str, np.ndarray]:
  """Reads a request's inputs in the model's size, rate and length.

  Raises:
    ClipError: a file that cannot be used; the message names it.
  """
  inputs = {}
  for name in (*request.task.inputs, *request.task.optional):
    value = getattr(request, name)
    if value is None:
      continue
    if isinstance(value, np.ndarray):
      inputs[name] = value
    elif name == "image":
      inputs[name] = media.read_image(value, shape.size)
    else:
      clip = media.read_clip(
        value, fps=shape.fps, size=shape.size, frames=shape.frames,
        sample_rate=sample_rate, streams=(name,),
      )  # fmt: skip
      inputs[name] = getattr(clip, name)
  return inputs


def describe_unused(request: Request, shape: ClipShape) -> str:
  """Returns a note on how much of longer inputs is unused, or ""."""
  length = shape.seconds
  for path in (request.audio, request.video):
    seconds = media.declared_duration(path) if isinstance(path, str) else 0
    if seconds > length + 0.5:
      return (
        f"{path}: only the first {length:.2f} s of {seconds:.0f} s are used"
      )
  return ""


def fields_of(request: Request) -> dict[str, Any]:
  """Returns the fields of a request as `make_request` takes them."""
  fields = {name: getattr(request, name) for name in _TYPES}
  return fields | {"task": request.task.name}
