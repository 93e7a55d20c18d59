"""Clips -> records of latents.

The first `frames` frames of every clip and their sound become one example,
written as `data.records` says. A clip that cannot be used is reported with its
reason and left out. Captions are read as `data.encode.captions` says; a clip's
split is the one they name, else by hash.

Shards are made one by one, and what is finished is not made again when the same
command is called again (`data.encode.staging`). Of n processes each makes every
n-th shard, on its own devices.
"""

import dataclasses
import hashlib
import json
import time
from collections.abc import Sequence
from typing import Any

from absl import logging
from etils import epath

from ccl_jax import distributed
from ccl_jax.array_types import STREAMS
from ccl_jax.codecs.api import Codecs
from ccl_jax.codecs.linear import LinearAudioCodec
from ccl_jax.data import records, shards
from ccl_jax.data.encode import batches, captions, staging
from ccl_jax.data.encode.decode_pool import DecodePool
from ccl_jax.data.encode.fit_codecs import fit_codecs, none_usable
from ccl_jax.data.encode.settings import EncodeSettings
from ccl_jax.distributed import ALONE, ShardOptions
from ccl_jax.sharding import ONE_DEVICE, Layout

# How clips are encoded, not what they become.
_FREE = ("num_workers", "batch_size", "weights")


@dataclasses.dataclass
class Summary:
  """What became of the clips; `fresh` of them now, in so many `seconds`."""

  encoded: dict[str, int] = dataclasses.field(default_factory=dict)
  skipped: dict[str, str] = dataclasses.field(default_factory=dict)
  without_caption: int = 0
  cut_captions: int = 0
  fresh: int = 0
  seconds: float = 0.0

  def __str__(self) -> str:
    counts = ", ".join(f"{n} {split}" for split, n in self.encoded.items())
    total = sum(self.encoded.values())
    return (
      f"Encoded {total} clips ({counts}), left out {len(self.skipped)}."
      f" {self.without_caption} have no caption; {self.cut_captions} captions"
      f" were cut to encode.text_length tokens. {self.fresh} of them now, in"
      f" {self.seconds:.0f} s: {self.fresh / max(self.seconds, 1e-9):.2f}"
      " clips/s."
    )


def encode(
  folder: epath.PathLike,
  output: epath.PathLike,
  settings: EncodeSettings,
  *,
  captions: epath.PathLike | None = None,
  codecs: Codecs | None = None,
  force: bool = False,
  layout: Layout = ONE_DEVICE,
  share: ShardOptions = ALONE,
) -> Summary:
  """Writes the records of every usable clip of `folder` to `output`.

  Args:
    codecs: used as they are; None fits new ones.
    force: replace what is there; see `unfinished.prepare`.
    layout: of this process's devices, where the codecs run.
    share: this process's, of the shards.

  Raises:
    ValueError: bad captions, no usable clip, latents that are not what they
      should be, or `output` exists and not `force`. Then `output` is as it was.
  """
  if codecs is None and settings.codec != "linear":
    raise ValueError(f"encode.codec='{settings.codec}' cannot be fitted.")
  clips = list_clips(folder, captions, settings)
  if share.is_lead:
    plan = make_plan(clips, settings, is_given=codecs is not None)
    staging.prepare(output, plan, force)
  if share.shard_count > 1:
    distributed.barrier("the unfinished data set is there")
  staging.check_seen(output)
  old = shards.read_notes(staging.place(output))
  try:
    seconds = make(output, clips, settings, codecs, layout, share)
  except BaseException:
    if share.is_lead:
      keep_or_discard(output)
    raise
  summary = summarize(shards.read_notes(output))
  summary.without_caption = sum(not clip.caption for clip in clips)
  summary.fresh -= sum(note.count for note in old)
  summary.seconds = seconds
  return summary


def make(
  output: epath.PathLike,
  clips: Sequence[captions.ClipFile],
  settings: EncodeSettings,
  codecs: Codecs | None,
  layout: Layout,
  share: ShardOptions,
) -> float:
  """Makes what is not there yet of what was prepared, then publishes it.

  Returns the seconds that this process's shards took.
  """
  work = staging.place(output)
  rate = (codecs.audio if codecs else LinearAudioCodec).sample_rate
  with make_reader(settings, rate) as reader:
    codecs = ready_codecs(work, clips, reader, settings, codecs, share)
    form = make_form(codecs, settings)
    jobs = batches.make_jobs(clips, settings.clips_per_shard)
    rows = settings.batch_size + -settings.batch_size % layout.batch_shards()
    mine = jobs[share.shard_index :: share.shard_count]
    began = time.monotonic()
    batches.encode_shards(work, mine, reader, codecs, form, rows)
    seconds = time.monotonic() - began
  if not share.is_lead:
    share.wait(lambda: staging.is_published(output))
    return seconds
  share.wait(lambda: shards.count_notes(work) == len(jobs))
  check_any(shards.read_notes(work))
  records.finish(work, form, codecs, **settings.clip)
  staging.publish(output)
  return seconds


def list_clips(
  folder: epath.PathLike,
  captions: epath.PathLike | None,
  settings: EncodeSettings,
) -> list[captions.ClipFile]:
  """The clips by name, each with its split."""
  return [
    clip._replace(
      split=clip.split
      or records.split_of(clip.name, settings.validation_fraction)
    )
    for clip in captions.list_sources(folder, captions)
  ]


def make_plan(
  clips: Sequence[captions.ClipFile], settings: EncodeSettings, is_given: bool
) -> dict[str, Any]:
  """What shards are made of; those of one plan can be one set."""
  rows = json.dumps([clip[1:] for clip in clips]).encode()
  kept = {
    k: v for k, v in dataclasses.asdict(settings).items() if k not in _FREE
  }
  return {
    "clips": {"number": len(clips), "digest": hashlib.sha256(rows).hexdigest()},
    "codecs": "given" if is_given else "fitted",
    "encode": kept,
  }


def ready_codecs(
  work: epath.Path,
  clips: Sequence[captions.ClipFile],
  reader: DecodePool,
  settings: EncodeSettings,
  given: Codecs | None,
  share: ShardOptions,
) -> Codecs:
  """The codecs of the unfinished data set, which the first process put there.

  Raises:
    ValueError: the set was begun with others.
  """
  path, last = work / "codecs", work / "codecs" / "codecs.json"
  if share.is_lead and not last.exists():
    (given or fit_codecs(clips, reader, settings)).save(path)
  share.wait(last.exists)
  saved = Codecs.load(path)
  if given is not None and not given.equals(saved):
    raise ValueError(
      f"{work} was begun with other codecs. Go on with them (--codecs={path})"
      " or start anew: --force."
    )
  return given or saved


def make_form(codecs: Codecs, settings: EncodeSettings) -> shards.RecordSchema:
  """What the examples have in common."""
  return shards.RecordSchema(
    records.latent_shapes(codecs, **settings.clip),
    tuple(
      stream
      for stream in STREAMS
      if settings.keep_logvar and getattr(codecs, stream).has_logvar
    ),
  )


def summarize(notes: Sequence[shards.ShardManifest]) -> Summary:
  """Of all shards."""
  summary = Summary(cut_captions=sum(note.cut_captions for note in notes))
  for note in notes:
    summary.fresh += note.count
    summary.skipped |= note.left_out
    if note.count:
      count = summary.encoded.get(note.split, 0)
      summary.encoded[note.split] = count + note.count
  return summary


def check_any(notes: Sequence[shards.ShardManifest]) -> None:
  """Raises ValueError if no clip could be used."""
  summary = summarize(notes)
  if not summary.encoded:
    raise none_usable(summary.skipped)


def make_reader(settings: EncodeSettings, sample_rate: int) -> DecodePool:
  """What decodes the clips as the settings say."""
  return DecodePool(
    settings.num_workers,
    ahead=settings.batch_size + 2 * settings.num_workers,
    need_caption=settings.need_caption,
    sample_rate=sample_rate,
    need_video=settings.need_video,
    need_audio=settings.need_audio,
    **settings.clip,
  )


def keep_or_discard(output: epath.PathLike) -> None:
  """After an error: what holds finished shards is worth to go on with."""
  notes = shards.read_notes(staging.place(output))
  count = sum(note.count for note in notes)
  if count:
    logging.warning(
      "%d encoded clips are kept in %s; the same command goes on from there.",
      count, staging.place(output),
    )  # fmt: skip
  else:
    staging.discard(output)
