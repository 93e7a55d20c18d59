"""From a prompt (and an image, a sound or a video) to a clip.

    pipeline = Pipeline.load("runs/demo/run")
    clips = pipeline("t2av", ['A red face talks. "a i u" A low voice.'])
    clips[0].save("clip.mp4")

The workdir of a training run has everything that is needed. Latents are
sampled by one compiled program per task and batch size; the noise of a sample
comes from its own seed, so a result does not depend on the rest of its batch.
On accelerators another batch size is another program, with other rounding. A
CPU runs one clip at a time, which is as fast and gives the same bits.
"""

import contextlib
import dataclasses
import logging
import math
import numbers
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from einops import rearrange
from jaxtyping import Float, UInt8

from ccl_jax.data.clip import GeneratedClip
from ccl_jax.diffusion import tasks
from ccl_jax.generation import stages
from ccl_jax.generation.components import Components
from ccl_jax.generation.requests import (
  Request,
  check_inputs,
  make_request,
  read_inputs,
)
from ccl_jax.generation.sampling import AttentionProbe
from ccl_jax.generation.sampling_config import SamplingConfig
from ccl_jax.generation.stages import EncodedInputs

T = TypeVar("T")
# Turns a batch's latents and attention shares into results.
Finish = Callable[[Sequence[Request], Mapping, Mapping], Iterable[T]]
# With `offload`, requests between two times that everything is loaded.
_ROUND = 64


class Pipeline(Components):
  """A trained model with its codecs, ready to generate."""

  def __call__(
    self,
    task: str,
    prompts: str | Iterable[str],
    *,
    negative: str | Sequence[str] = "",
    images: Sequence[UInt8[np.ndarray, "y x 3"]] | None = None,
    audios: Sequence[Float[np.ndarray, " s"]] | None = None,
    videos: Sequence[UInt8[np.ndarray, "t y x 3"]] | None = None,
    seeds: int | np.integer | Iterable[int | np.integer] | None = None,
    sampling: SamplingConfig | None = None,
  ) -> list[GeneratedClip]:
    """Generates one clip per prompt; input streams are returned with it.

    Args:
      task: t2av, i2av, t2v, i2v, t2a, a2v or v2a.
      prompts: one for each clip, or a text for one clip.
      negative: one for all prompts, or one for each.
      images, audios, videos: one per prompt, where the task takes them; of the
        model's size, rate and length (see `data.media`).
      seeds: one per prompt, or that of the first, to which each further one
        adds 1; 0, 1, ... if None.

    Raises:
      ValueError: an unknown task, or an input that it lacks or cannot take.
    """
    if not isinstance(prompts, Iterable):
      raise ValueError(
        f"prompts is {prompts!r}: expected a text, or one for each clip."
      )
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    num, inputs = len(prompts), dict(image=images, audio=audios, video=videos)
    kind = tasks.inference_task(task)
    check_inputs(kind, inputs)
    columns = {"prompt": prompts, "seed": seeds, "negative": negative} | inputs
    if seeds is None or isinstance(seeds, numbers.Integral):
      first = int(seeds or 0)
      columns["seed"] = range(first, first + num)
    if isinstance(negative, str):
      columns["negative"] = [negative] * num
    columns = {n: list(x) for n, x in columns.items() if x is not None}
    for name, values in columns.items():
      if len(values) != num:
        raise ValueError(
          f"{len(values)} {name} values for {num} prompts: give one each."
        )
    requests = [
      make_request({"task": task, "name": str(i)} | dict(zip(columns, row)))  # noqa: B905
      for i, row in enumerate(zip(*columns.values(), strict=True))
    ]
    has_picture = kind.reference and "image" in columns
    if note := self.describe_untrained(kind, has_picture):
      logging.warning(note)
    return self.generate(requests, sampling=sampling, batch_size=num)

  def generate(
    self,
    requests: Sequence[Request],
    *,
    sampling: SamplingConfig | None = None,
    batch_size: int = 8,
    finish: Finish | None = None,
    probe: AttentionProbe | None = None,
    guard: Callable[..., contextlib.AbstractContextManager] | None = None,
  ) -> list[Any]:
    """Runs all stages for all requests; nothing else orders them.

    Each stage needs another part of the model, which `offload` frees after it.

    Args:
      batch_size: requests that are sampled at once, at most; one for each
        device if they are CPUs.
      finish: makes a batch's results from its latents and attention shares;
        by default decoded clips.
      probe: see `stages.sample`.
      guard: `with guard(*requests):` surrounds what can fail for them alone,
        and may suppress a ValueError to go on with the others.

    Returns:
      The results, task by task in the order of the requests, those with and
      without a reference picture apart.

    Raises:
      ValueError: a task that the model cannot do.
    """
    for task in dict.fromkeys(request.task for request in requests):
      self.check_task(task)
    guard = guard or (lambda *requests: contextlib.nullcontext())
    finish = finish or self.decode
    if self.plan.layout.device.platform == "cpu":
      batch_size = self.plan.layout.batch_shards()
    results = []
    for group, rows in group_requests(requests, batch_size, self.offload):
      texts = {}
      for batch in chunked(group, rows):
        texts |= self._embed(batch, guard)
      self.offload_weights()
      inputs: dict[Request, EncodedInputs] = {}
      for batch in chunked(list(texts), rows):
        inputs |= self._encode(batch, guard)
      self.offload_weights()
      sampled = []
      for batch in chunked(list(inputs), rows):
        with guard(*batch):
          found = self._sample(batch, rows, texts, inputs, sampling, probe)
          sampled.append((batch, *found))
      self.offload_weights()
      for batch, latents, shares in sampled:
        with guard(*batch):
          results += finish(batch, latents, shares)
      self.offload_weights()
    return results

  def decode(
    self, batch: Sequence[Request], latents: Mapping, shares: Mapping
  ) -> list[GeneratedClip]:
    """Decodes a batch to clips, in which input streams are the originals."""
    clips = []
    for request, clip in zip(batch, stages.decode(self, latents), strict=True):
      given = {s: getattr(request, s) for s in request.task.given}
      given = {s: x for s, x in given.items() if isinstance(x, np.ndarray)}
      clips.append(dataclasses.replace(clip, **given, given=tuple(given)))
    return clips

  def _embed(
    self, group: Sequence[Request], guard: Callable
  ) -> dict[Request, tuple[np.ndarray, np.ndarray]]:
    """Embeds the prompt and the negative prompt of each request."""
    done = {r: r.text for r in group if r.text is not None}
    todo = []
    for request in group:
      if request not in done:
        with guard(request):
          for prompt in (request.prompt, request.negative):
            stages.check_prompt(self, prompt)
          todo.append(request)
    if not todo:
      return done
    prompts = [p for r in todo for p in (r.prompt, r.negative)]
    pairs = rearrange(stages.embed(self, prompts), "(b p) l d -> b p l d", p=2)
    return done | dict(zip(todo, map(tuple, pairs), strict=True))

  def _encode(
    self, batch: Sequence[Request], guard: Callable
  ) -> dict[Request, EncodedInputs]:
    """Reads and encodes the inputs of each request."""
    task = batch[0].task
    if batch[0].latents is not None:
      latents = _stack([request.latents for request in batch])
      return _split(batch, stages.use_latents(self, task, latents))
    rate, read = self.codecs.audio.sample_rate, {}
    for request in batch:
      with guard(request):
        self.check_picture(request)
        read[request] = read_inputs(request, self.shape, rate)
    if not read:
      return {}
    inputs = {name: [x[name] for x in read.values()] for name in task.inputs}
    if batch[0].has_picture:
      inputs["picture"] = [x["image"] for x in read.values()]
    return _split(list(read), stages.encode_inputs(self, inputs))

  def _sample(self, batch, rows, texts, inputs, sampling, probe):
    """Samples a batch, padded to `rows` so that all batches share a program."""
    padded = [*batch, *batch[-1:] * (rows - len(batch))]
    text, negative = (
      np.stack(x) for x in zip(*(texts[r] for r in padded), strict=True)
    )
    found = stages.sample(
      self, batch[0].task, text, negative,
      _stack([inputs[request] for request in padded]),
      [request.seed for request in padded], sampling, probe,
    )  # fmt: skip
    return jax.tree.map(lambda x: np.asarray(x)[: len(batch)], found)


def group_requests(
  requests: Sequence[Request], batch_size: int, offload: bool
) -> Iterator[tuple[list[Request], int]]:
  """Yields requests of one task that run together, and the size of batches.

  All batches of a task have one size, so that one program serves them: the one
  that pads the fewest rows. Those with a reference picture are another program.
  """
  kinds = [(request.task, request.has_picture) for request in requests]
  for kind in dict.fromkeys(kinds):
    members = [r for r, k in zip(requests, kinds, strict=True) if k == kind]
    rows = math.ceil(len(members) / math.ceil(len(members) / batch_size))
    at_once = max(_ROUND // rows, 1) if offload else 1
    for group in chunked(members, rows * at_once):
      yield group, rows


def chunked(items: Sequence[T], size: int) -> Iterator[list[T]]:
  """Yields consecutive chunks of `size` items, the last perhaps smaller."""
  for start in range(0, len(items), size):
    yield list(items[start : start + size])


def _stack(trees: Sequence[Any]) -> Any:
  return jax.tree.map(lambda *x: np.stack(x), *trees)


def _split(
  batch: Sequence[Request], inputs: EncodedInputs
) -> dict[Request, EncodedInputs]:
  return {
    request: jax.tree.map(lambda x, i=i: x[i], inputs)
    for i, request in enumerate(batch)
  }
