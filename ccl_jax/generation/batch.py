"""Lists of requests become files: NAME.mp4 or NAME.wav, and NAME.json.

Writes are atomic, JSON last. A request is skipped on a restart if its JSON
equals what would be written now.
"""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tqdm
from etils import epath

from ccl_jax.data import decoding, muxing
from ccl_jax.generation.pipeline import Pipeline
from ccl_jax.generation.requests import (
  INPUTS,
  Request,
  cut,
  describe_unused,
  fields_of,
  read_inputs,
)
from ccl_jax.generation.sampling import AttentionProbe, describe_skipped
from ccl_jax.generation.sampling_config import SamplingConfig
from ccl_jax.metrics import attention_plots
from ccl_jax.processes import distributed
from ccl_jax.processes.distributed import ShardOptions
from ccl_jax.storage.files import check_apart
from ccl_jax.storage.text_files import parse_object, read_text, write_json

Latents = Mapping[str, np.ndarray]


class Progress:
  """A progress bar of requests, and what went wrong with some.

  Attributes:
    problems: a message for each request that failed.
    unused: a note for each request whose input is longer than a clip.
  """

  def __init__(self, bar: tqdm.tqdm, warn: Callable[[str], None]):
    self.bar, self._warn = bar, warn
    self.problems: list[str] = []
    self.unused: list[str] = []

  @contextlib.contextmanager
  def collect_errors(self, *requests: Request) -> Iterator[None]:
    """Records an error of the body as a problem of these requests.

    A value that cannot be used, a file that cannot be read or written, or a
    library that its address needs.
    """
    try:
      yield
    except (ValueError, OSError, ImportError) as error:
      for request in requests:
        self.problems.append(f"{request.where}: {error}".removeprefix(": "))
        self._warn(self.problems[-1])
      self.bar.update(len(requests))


@dataclasses.dataclass(frozen=True)
class BatchGenerator:
  """Writer of requests into a folder.

  Attributes:
    batch_size: requests that are sampled at once, at most.
    about: entries of each JSON beside the request and the sampling settings.
    warn: called with a line for each problem and note.
    probe: draws pictures of attention beside the results.
  """

  pipeline: Pipeline
  sampling: SamplingConfig
  output: epath.Path
  batch_size: int
  about: Mapping[str, Any]
  warn: Callable[[str], None]
  show_progress: bool
  probe: AttentionProbe | None = None

  def run(self, requests: Sequence[Request]) -> list[str]:
    """Writes the requests that are not done; returns a message per failure."""
    with tqdm.tqdm(
      total=len(requests), unit="clip", disable=not self.show_progress
    ) as bar:
      progress, todo = Progress(bar, self.warn), []
      for request in requests:
        with progress.collect_errors(request):
          paths = [getattr(request, name) for name in INPUTS]
          paths = [path for path in paths if isinstance(path, str)]
          check_apart(self.output_path(request), *paths)
          if self.is_done(request):
            progress.bar.update(1)
          else:
            todo.append(request)
      kinds = [(request.task, request.has_picture) for request in todo]
      for task, has_picture in dict.fromkeys(kinds):
        if note := self.pipeline.describe_untrained(task, has_picture):
          self.warn(note)
        shape = self.pipeline.flop_shape(task)
        model = self.pipeline.plan.settings
        if note := describe_skipped(model, shape, self.sampling, task):
          self.warn(note)

      def finish(batch, latents, shares):
        try:
          self.write(batch, latents, shares)
        except (ValueError, OSError):
          if len(batch) == 1:
            raise
          # What one of them cannot write has nothing to do with the others.
          for i, request in enumerate(batch):
            with progress.collect_errors(request):
              finish([request], *_take(slice(i, i + 1), latents, shares))
          return ()
        progress.bar.update(len(batch))
        notes = (describe_unused(r, self.pipeline.shape) for r in batch)
        progress.unused += filter(None, notes)
        return ()

      self.pipeline.generate(
        todo, sampling=self.sampling, batch_size=self.batch_size,
        finish=finish, probe=self.probe, guard=progress.collect_errors,
      )  # fmt: skip
    if unused := progress.unused:
      self.warn(f"{unused[0]} (inputs that are longer: {len(unused)})")
    return progress.problems

  def write(
    self, batch: Sequence[Request], latents: Latents, shares: Latents
  ) -> None:
    """Decodes a batch into its files."""
    for request in batch:
      self.output_path(request, ".json").unlink(missing_ok=True)
    pipeline, task = self.pipeline, batch[0].task
    # Input streams are read a second time: clips of a round are many, and the
    # first copies were freed after encoding.
    rate = pipeline.codecs.audio.sample_rate
    inputs = [read_inputs(r, pipeline.shape, rate) for r in batch]
    decoding.write_clips(
      latents,
      pipeline.codecs,
      pipeline.shape,
      [self.output_path(request) for request in batch],
      {s: [x[s] for x in inputs] for s in task.given},
    )
    for i, request in enumerate(batch):
      self.restore_inputs(request)
      if shares:
        self.plot_attention(request, *_take(i, latents, shares))
      write_json(self.output_path(request, ".json"), self.metadata(request))

  def restore_inputs(self, request: Request) -> None:
    """Puts the streams of given files into a result, or removes it."""
    path, shape = self.output_path(request), self.pipeline.shape
    try:
      for stream in request.task.given:
        source = getattr(request, stream)
        if isinstance(source, str):
          muxing.restore_stream(path, stream, source, shape.seconds)
    except BaseException:
      path.unlink(missing_ok=True)
      raise

  def plot_attention(
    self, request: Request, latents: Latents, shares: attention_plots.Shares
  ) -> None:
    """Draws where the attention of a result went, beside it."""
    one = {s: x[None] for s, x in latents.items()}
    codecs, shape = self.pipeline.codecs, self.pipeline.shape
    (clip,) = decoding.decode_clips(one, codecs, shape)
    path = self.output_path(request)
    attention_plots.save_plots(path, shares, clip, *self.probe)

  def metadata(self, request: Request) -> dict[str, Any]:
    """Returns the JSON of a result."""
    entries = fields_of(request) | dict(self.about)
    entries["sampling"] = dataclasses.asdict(self.sampling)
    if self.probe:
      entries["attention"] = self.probe._asdict()
    return json.loads(json.dumps(entries))  # tuples as they will be read

  def output_path(self, request: Request, suffix: str = "") -> epath.Path:
    """Returns the path of a result, or with another suffix."""
    has_video = "video" in request.task.streams
    suffix = suffix or (".mp4" if has_video else ".wav")
    return self.output / f"{request.name}{suffix}"

  def is_done(self, request: Request) -> bool:
    """Returns whether the result exists as it would be written now."""
    file = self.output_path(request, ".json")
    if not file.exists() or not self.output_path(request).exists():
      return False
    try:
      return json.loads(file.read_text()) == self.metadata(request)
    except ValueError:  # Not JSON, so none of this project's.
      return False


def check_same_request(request: Request, output: epath.Path) -> None:
  """Raises ValueError if a result of this name is of another request.

  Other settings of sampling and another checkpoint make no other request.
  """
  try:
    old = parse_object(read_text(output / f"{request.name}.json"))
  except (OSError, ValueError):  # there is none, or none of this project's
    return
  for key, new in fields_of(request).items():
    if key in old and old[key] != new:
      raise ValueError(
        f"'{output / request.name}' is of another request, its {key} was"
        f" {cut(repr(old[key]))}, now it is {cut(repr(new))}: choose another"
        " --output or --seed."
      )


def _take(rows: int | slice, *trees: Latents) -> tuple[Latents, ...]:
  """Returns some rows of all arrays."""
  return tuple({s: x[rows] for s, x in tree.items()} for tree in trees)


def gather_problems(
  output: epath.Path, share: ShardOptions, problems: list[str]
) -> list[str]:
  """Returns the problems of all processes once all are done.

  Each writes its own to `output`/.share-INDEX.json, which `reset_problems`
  removes before.
  """
  if share.shard_count == 1:
    return problems
  files = [_problem_file(output, i) for i in range(share.shard_count)]
  write_json(files[share.shard_index], problems)
  distributed.wait_until(lambda: all(file.exists() for file in files))
  return [each for file in files for each in json.loads(file.read_text())]


def reset_problems(output: epath.Path, share: ShardOptions) -> None:
  """Removes what an earlier start has written for `gather_problems`."""
  if share.shard_count > 1:
    _problem_file(output, share.shard_index).unlink(missing_ok=True)
    distributed.barrier("problems of an earlier start are removed")


def _problem_file(output: epath.Path, index: int) -> epath.Path:
  return output / f".share-{index}.json"
