"""Items (`prompts`) -> files, in batches; what is done already is not made.

Each result is NAME.mp4 (NAME.wav for t2a) and NAME.json, which says how it was
made. Both appear whole, the JSON last: an item is done if its JSON says just
what would be written now. What is wrong with an item is told, and the others go
on.

Items of one task are sampled together. Each has its own seed: its result
depends neither on the others nor on how many devices there are.
"""

import contextlib
import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import tqdm
from einops import rearrange
from etils import epath

from ccl_jax import distributed
from ccl_jax.data import decoding
from ccl_jax.diffusion import tasks
from ccl_jax.distributed import ShardOptions
from ccl_jax.files import write_json
from ccl_jax.generation.pipeline import Pipeline
from ccl_jax.generation.requests import (
  INPUTS,
  Request,
  describe,
  inputs,
  read_given,
  unused,
)
from ccl_jax.generation.sampling import AttentionProbe, SamplingConfig
from ccl_jax.metrics import attention_plots

# What `Pipeline.encode_given` gives, of one item.
Given = dict[str, Any]
# With `offload`, items between two times that everything is loaded.
_ROUND = 64


class Progress:
  """What becomes of items.

  Attributes:
    bar: of those that are through.
    problems: what was wrong with some.
    cut: inputs of which the end is not used.
  """

  def __init__(self, bar: tqdm.tqdm, tell: Callable[[str], None]):
    self.bar, self.tell = bar, tell
    self.problems: list[str] = []
    self.cut: list[str] = []

  @contextlib.contextmanager
  def blaming(self, *items: Request) -> Iterator[None]:
    """A ValueError in the body is these items' problem, and ends no more."""
    try:
      yield
    except ValueError as error:
      for item in items:
        self.problems.append(f"{item.where}: {error}".removeprefix(": "))
        self.tell(self.problems[-1])
      self.bar.update(len(items))


@dataclasses.dataclass(frozen=True)
class BatchGenerator:
  """Makes items into files.

  Attributes:
    out: the folder.
    batch: how many are sampled at once.
    about: what the JSON of each says beside the item and the sampling.
    tell: told of items that cannot be made, and of what is odd.
    shows: whether there is a progress bar.
    look: makes pictures of attention beside the results.
  """

  pipeline: Pipeline
  sampling: SamplingConfig
  out: epath.Path
  batch: int
  about: Mapping[str, Any]
  tell: Callable[[str], None] = tqdm.tqdm.write
  shows: bool = True
  look: AttentionProbe | None = None

  def run(self, items: Sequence[Request]) -> list[str]:
    """Makes what is not done; returns what was wrong with some of them."""
    todo = [item for item in items if not self.is_done(item)]
    done = len(items) - len(todo)
    with tqdm.tqdm(
      total=len(items), initial=done, unit="clip", disable=not self.shows
    ) as bar:
      report = Progress(bar, self.tell)
      for members, rows in self.rounds(todo):
        self.make(members, rows, report)
    if report.cut:
      self.tell(f"{report.cut[0]} (inputs that are cut: {len(report.cut)})")
    return report.problems

  def rounds(
    self, items: Sequence[Request]
  ) -> Iterator[tuple[list[Request], int]]:
    """Items of one task that go through together, and the size of batches.

    Batches of a task are of one size, so that one program serves them all: the
    one that leaves the fewest rows to fill up.
    """
    for task in dict.fromkeys(item.task for item in items):
      members = [item for item in items if item.task == task]
      rows = math.ceil(len(members) / math.ceil(len(members) / self.batch))
      at_once = max(_ROUND // rows, 1) if self.pipeline.offload else 1
      for part in parts(members, rows * at_once):
        yield part, rows

  def make(self, items: Sequence[Request], rows: int, report: Progress) -> None:
    """Items of one task, stage by stage: each needs a part of the model."""
    pipeline = self.pipeline
    good = []
    for item in items:
      with report.blaming(item):
        for text in (item.prompt, item.negative):
          pipeline.check_prompt(text)
        good.append(item)
    texts = self.embed(good)
    pipeline.free()
    given: dict[Request, Given] = {}
    for batch in parts(good, rows):
      given |= self.encode(batch, report)
    pipeline.free()
    made = []
    for batch in parts(list(given), rows):
      with report.blaming(*batch):
        made.append((batch, self.sample(batch, rows, texts, given)))
    pipeline.free()
    for batch, latents in made:
      with report.blaming(*batch):
        self.write(batch, *latents)
        report.bar.update(len(batch))
    pipeline.free()

  def embed(self, items: Sequence[Request]) -> dict[Request, np.ndarray]:
    """Prompt and negative prompt of each, (2, l, d)."""
    if not items:
      return {}
    texts = [text for item in items for text in (item.prompt, item.negative)]
    pairs = rearrange(self.pipeline.embed(texts), "(b p) l d -> b p l d", p=2)
    return dict(zip(items, pairs, strict=True))

  def encode(
    self, batch: Sequence[Request], report: Progress
  ) -> dict[Request, Given]:
    """Latents of what each is given; items without it are reported."""
    read = {}
    for item in batch:
      with report.blaming(item):
        read[item] = read_given(item, self.pipeline)
        if left_out := unused(item, self.pipeline):
          report.cut.append(left_out)
    if not read:
      return {}
    taken = inputs(batch[0].task)
    arrays = {
      f"{name}s": [x[name] for x in read.values()] if name in taken else None
      for name in INPUTS
    }
    given = self.pipeline.encode_given(batch[0].task, len(read), **arrays)
    return {
      item: jax.tree.map(lambda x, i=i: x[i], given)
      for i, item in enumerate(read)
    }

  def sample(
    self,
    batch: Sequence[Request],
    rows: int,
    texts: Mapping[Request, np.ndarray],
    given: Mapping[Request, Given],
  ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Latents of a batch, which is filled up to `rows` while it is sampled.

    And, to `look` at, the shares of attention.
    """
    filled = [*batch, *batch[-1:] * (rows - len(batch))]
    text = np.stack([texts[item] for item in filled])
    args = (
      batch[0].task,
      text[:, 0],
      text[:, 1],
      jax.tree.map(lambda *x: np.stack(x), *[given[i] for i in filled]),
      [item.seed for item in filled],
      self.sampling,
    )
    found = self.pipeline.look(self.look, *args)
    return jax.tree.map(lambda x: np.asarray(x)[: len(batch)], found)

  def write(
    self,
    batch: Sequence[Request],
    latents: Mapping[str, np.ndarray],
    shares: Mapping[str, np.ndarray],
  ) -> None:
    """The files of a batch; a stream that was given is read once more."""
    for item in batch:
      self.place(item, ".json").unlink(missing_ok=True)
    plan = tasks.inference_task(batch[0].task)
    read = [read_given(item, self.pipeline) for item in batch]
    decoding.write(
      latents,
      self.pipeline.codecs,
      self.pipeline.shape,
      [self.place(item) for item in batch],
      {s: [x[s] for x in read] for s in plan.given},
    )
    for i, item in enumerate(batch):
      if shares:
        self.show(
          item, *({s: x[i] for s, x in y.items()} for y in (latents, shares))
        )
      write_json(self.place(item, ".json"), self.says(item))

  def show(
    self,
    item: Request,
    latents: dict[str, np.ndarray],
    shares: attention_plots.Shares,
  ) -> None:
    """Pictures of attention, beside a result."""
    one = {s: x[None] for s, x in latents.items()}
    (clip,) = decoding.decode(one, self.pipeline.codecs, self.pipeline.shape)
    attention_plots.save(self.place(item), shares, clip, *self.look)

  def says(self, item: Request) -> dict[str, Any]:
    """What the JSON beside a result says."""
    look = {"attention": self.look._asdict()} if self.look else {}
    return describe(item, self.sampling, {**self.about, **look})

  def place(self, item: Request, suffix: str = "") -> epath.Path:
    """Where a result goes, or its JSON."""
    has_video = "video" in tasks.inference_task(item.task).streams
    suffix = suffix or (".mp4" if has_video else ".wav")
    return self.out / f"{item.name}{suffix}"

  def is_done(self, item: Request) -> bool:
    """Whether its result is there, made as it would be made now."""
    file = self.place(item, ".json")
    if not file.exists() or not self.place(item).exists():
      return False
    return json.loads(file.read_text()) == self.says(item)


def parts(items: Sequence[Request], size: int) -> Iterator[list[Request]]:
  """Consecutive parts of `size`, the last perhaps smaller."""
  for start in range(0, len(items), size):
    yield list(items[start : start + size])


def meet(
  out: epath.Path, share: ShardOptions, problems: list[str]
) -> list[str]:
  """The problems of all processes, once all are through with their shares.

  Each leaves them in `out`/.share-INDEX.json; `clear` comes before.
  """
  if share.shard_count == 1:
    return problems
  files = [share_file(out, i) for i in range(share.shard_count)]
  write_json(files[share.shard_index], problems)
  share.wait(lambda: all(file.exists() for file in files))
  return [each for file in files for each in json.loads(file.read_text())]


def clear(out: epath.Path, share: ShardOptions) -> None:
  """Takes away what an earlier start has left for `meet`."""
  if share.shard_count > 1:
    share_file(out, share.shard_index).unlink(missing_ok=True)
    distributed.barrier("no process has a report from before")


def share_file(out: epath.Path, index: int) -> epath.Path:
  """What `meet` leaves."""
  return out / f".share-{index}.json"
