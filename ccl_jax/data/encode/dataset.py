"""A folder of clips -> a data set of latents.

The first `frames` frames of every clip and their sound become one example, or
some windows of it one each (`data.encode.windows`), in the format of
`data.records`. A clip that cannot be used is left out, and the reason is in
left_out.jsonl. Captions come from `data.encode.captions`; a clip's split is the
one that they name, else chosen by a hash of its name.

Shards are written one by one, and a complete shard is not encoded again when
the same command runs again (`data.encode.staging`). With n processes, each
encodes every n-th shard on its own devices.
"""

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

from absl import logging
from etils import epath

from ccl_jax import distributed
from ccl_jax.array_types import STREAMS
from ccl_jax.codecs.api import Codecs
from ccl_jax.codecs.linear import LinearAudioCodec
from ccl_jax.data import records, shards
from ccl_jax.data.encode import batches, staging
from ccl_jax.data.encode.captions import ClipFile, describe_counts, list_clips
from ccl_jax.data.encode.cuts import describe_cuts
from ccl_jax.data.encode.decode_pool import DecodePool
from ccl_jax.data.encode.fit_codecs import fit_codecs
from ccl_jax.data.encode.left_out import (
  FILE,
  describe_reasons,
  no_usable_clip,
  write_left_out,
)
from ccl_jax.data.encode.settings import FITTED, EncodeSettings
from ccl_jax.data.encode.splits import assign_splits
from ccl_jax.data.encode.windows import cut_windows
from ccl_jax.distributed import SINGLE_PROCESS, ShardOptions
from ccl_jax.sharding import ONE_DEVICE, Layout

# Settings that do not change the examples: they may differ when resuming.
_NOT_IN_PLAN = ("num_workers", "batch_size", "weights")


@dataclasses.dataclass
class Summary:
  """Numbers of clips, and how fast this run was.

  Attributes:
    encoded: split -> number of clips.
    skipped: name -> reason.
    without_caption, cut_captions: numbers of clips.
    passed_over: suffix -> number of files that are no clips.
    absent: files that have a caption and are not there.
    filtered: number of clips that do not meet the condition of --keep.
    fresh: clips that this run encoded.
    seconds: that it took.
  """

  encoded: dict[str, int] = dataclasses.field(default_factory=dict)
  skipped: dict[str, str] = dataclasses.field(default_factory=dict)
  without_caption: int = 0
  cut_captions: int = 0
  passed_over: dict[str, int] = dataclasses.field(default_factory=dict)
  absent: Sequence[str] = ()
  filtered: int = 0
  fresh: int = 0
  seconds: float = 0.0

  def __str__(self) -> str:
    counts = ", ".join(f"{n} {split}" for split, n in self.encoded.items())
    total = sum(self.encoded.values())
    lines = [
      f"Encoded {total} clips ({counts}), left out {len(self.skipped)}."
      f" {self.without_caption} have no caption; {self.cut_captions} captions"
      " were cut to encode.text_length tokens. This run encoded"
      f" {self.fresh} clips in {self.seconds:.0f} s:"
      f" {self.fresh / max(self.seconds, 1e-9):.2f} clips/s."
    ]
    if self.skipped:
      lines.append(f"Left out (all in {FILE} of the output):")
      lines.append(describe_reasons(self.skipped))
    if self.passed_over:
      counts = describe_counts(self.passed_over)
      lines.append(f"Passed over, as they are no clips: {counts}.")
    if self.filtered:
      lines.append(
        f"{self.filtered} clips do not meet the condition of --keep."
      )
    if self.absent:
      lines.append(
        f"{len(self.absent)} files of the captions are not there, such as"
        f" {self.absent[0]} (an error with --strict)."
      )
    return "\n".join(lines)


def encode_dataset(
  folder: epath.PathLike,
  output: epath.PathLike,
  settings: EncodeSettings,
  *,
  captions: epath.PathLike | None = None,
  strict: bool = False,
  keep: Callable[[list[ClipFile]], list[ClipFile]] | None = None,
  codecs: Codecs | None = None,
  force: bool = False,
  layout: Layout = ONE_DEVICE,
  share: ShardOptions = SINGLE_PROCESS,
) -> Summary:
  """Encodes every usable clip of `folder` into the data set `output`.

  Args:
    captions, strict: a file of captions, and whether each file that it names
      must exist; see `captions.list_clips`.
    keep: returns those of the clips that are encoded; None keeps all.
    codecs: used as they are; None fits new ones.
    force: replace what exists; see `staging.open_output`.
    layout: of this process's devices, on which the codecs run.
    share: the shards that this process encodes.

  Raises:
    ValueError: bad captions, no usable clip, latents that are not finite or far
      from mean 0 and deviation 1, or `output` exists and not `force`. `output`
      is then unchanged.
  """
  if codecs is None and settings.codec not in FITTED:
    raise ValueError(
      f"encode.codec='{settings.codec}' cannot be fitted on clips: name its"
      " weights (--config.encode.weights.*) or use --codecs."
    )
  listing = list_clips(folder, captions, strict)
  kept = listing.clips if keep is None else keep(listing.clips)
  if not kept:
    raise ValueError(f"None of {len(listing.clips)} clips meets the condition.")
  whole = assign_splits(kept, settings)
  clip_files = cut_windows(whole, settings)
  if share.is_lead:
    plan = make_plan(clip_files, settings, fits_codecs=codecs is None)
    staging.open_output(output, plan, force)
  if share.shard_count > 1:
    distributed.barrier("the staging folder is ready")
  staging.check_visible(output)
  if share.is_lead and (cuts := describe_cuts(whole, settings)):
    print(cuts)
  work = staging.staging_dir(output)
  num_before = sum(m.count for m in shards.read_manifests(work))
  try:
    seconds = _encode(output, clip_files, settings, codecs, layout, share)
  except BaseException:
    if share.is_lead:
      keep_or_discard(output)
    raise
  summary = summarize(shards.read_manifests(output))
  summary.without_caption = sum(not file.caption for file in clip_files)
  summary.passed_over = dict(listing.passed_over)
  summary.absent = listing.absent
  summary.filtered = len(listing.clips) - len(kept)
  summary.fresh -= num_before
  summary.seconds = seconds
  return summary


def _encode(
  output: epath.PathLike,
  clip_files: Sequence[ClipFile],
  settings: EncodeSettings,
  codecs: Codecs | None,
  layout: Layout,
  share: ShardOptions,
) -> float:
  """Encodes the missing shards; returns the seconds it took.

  When all are there, the lead process commits the data set.
  """
  work = staging.staging_dir(output)
  rate = (codecs.audio if codecs else LinearAudioCodec).sample_rate
  with make_decode_pool(settings, rate) as pool:
    codecs = load_or_fit_codecs(work, clip_files, pool, settings, codecs, share)
    schema = make_schema(codecs, settings)
    jobs = batches.make_jobs(clip_files, settings.clips_per_shard)
    mine = jobs[share.shard_index :: share.shard_count]
    # The batch size, rounded up to a multiple of the mesh's.
    rows = settings.batch_size + -settings.batch_size % layout.batch_shards()
    start = time.monotonic()
    batches.encode_shards(work, mine, pool, codecs, schema, rows)
    seconds = time.monotonic() - start
  if not share.is_lead:
    share.wait_until(lambda: staging.is_committed(output))
    return seconds
  share.wait_until(lambda: shards.count_manifests(work) == len(jobs))
  summary = summarize(shards.read_manifests(work))
  if not summary.encoded:
    raise no_usable_clip(summary.skipped)
  write_left_out(work, summary.skipped)
  records.finalize(work, schema, codecs, settings.shape)
  staging.commit(output)
  return seconds


def make_plan(
  clip_files: Sequence[ClipFile], settings: EncodeSettings, fits_codecs: bool
) -> dict[str, Any]:
  """Returns all that the examples depend on; shards of equal plans fit."""
  rows = json.dumps([(f.name, f.caption, f.split) for f in clip_files]).encode()
  fields = dataclasses.asdict(settings)
  return {
    "clips": {
      "number": len(clip_files),
      "digest": hashlib.sha256(rows).hexdigest(),
    },
    "codecs": "fitted" if fits_codecs else "given",
    "encode": {k: v for k, v in fields.items() if k not in _NOT_IN_PLAN},
  }


def load_or_fit_codecs(
  work: epath.Path,
  clip_files: Sequence[ClipFile],
  pool: DecodePool,
  settings: EncodeSettings,
  codecs: Codecs | None,
  share: ShardOptions,
) -> Codecs:
  """Returns the codecs of the staging folder; the lead process saves them.

  codecs: saved as they are; None fits new ones, or loads what an earlier run
    fitted.

  Raises:
    ValueError: the folder holds other codecs.
  """
  path, last_file = work / "codecs", work / "codecs" / "codecs.json"
  if share.is_lead and not last_file.exists():
    (codecs or fit_codecs(clip_files, pool, settings)).save(path)
  share.wait_until(last_file.exists)
  saved = Codecs.load(path)
  if codecs is not None and not codecs.equals(saved):
    raise ValueError(
      f"{work} was started with other codecs. Resume with them"
      f" (--codecs={path}), or start anew with --force."
    )
  return codecs or saved


def make_schema(
  codecs: Codecs, settings: EncodeSettings
) -> shards.RecordSchema:
  """Returns the schema of the examples."""
  logvar = [
    stream
    for stream in STREAMS
    if settings.keep_logvar and getattr(codecs, stream).has_logvar
  ]
  return shards.RecordSchema.from_codecs(codecs, settings.shape, logvar)


def summarize(manifests: Sequence[shards.ShardManifest]) -> Summary:
  """Returns the sums over all shards."""
  summary = Summary(cut_captions=sum(m.cut_captions for m in manifests))
  for manifest in manifests:
    summary.fresh += manifest.count
    summary.skipped |= manifest.left_out
    if manifest.count:
      count = summary.encoded.get(manifest.split, 0)
      summary.encoded[manifest.split] = count + manifest.count
  return summary


def make_decode_pool(settings: EncodeSettings, sample_rate: int) -> DecodePool:
  """Returns a pool that decodes clips as the settings say."""
  return DecodePool(
    settings.num_workers,
    buffer_size=settings.batch_size + 2 * settings.num_workers,
    need_caption=settings.need_caption,
    sample_rate=sample_rate,
    need_video=settings.need_video,
    need_audio=settings.need_audio,
    **dataclasses.asdict(settings.shape),
  )


def keep_or_discard(output: epath.PathLike) -> None:
  """Keeps the staging folder after an error if it holds complete shards."""
  work = staging.staging_dir(output)
  count = sum(m.count for m in shards.read_manifests(work))
  if count:
    logging.warning(
      "%d encoded clips are kept in %s; the same command resumes.", count, work
    )
  else:
    staging.discard(output)
