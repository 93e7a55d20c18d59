"""Encodes a folder of clips as a data set of latents.

The first `frames` frames of every clip and their sound become one example, or
each of several windows becomes one (`data.encode.windows`), in the format of
`data.records`. A clip that cannot be used is left out, and the reason is in
left_out.jsonl. Captions come from `data.encode.captions`; they may name the
split of a clip, which is otherwise chosen by a hash of its name. With several
shapes (`data.encode.buckets`), there is a data set for each.

Shards are written one by one, and a complete shard is not encoded again when
the same command runs again (`data.encode.staging`). With n processes, each
encodes every n-th shard on its own devices.
"""

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import logging
from etils import epath

from ccl_jax.array_types import STREAMS
from ccl_jax.codecs.api import Codecs
from ccl_jax.codecs.linear import LinearAudioCodec
from ccl_jax.data import records, shards
from ccl_jax.data.clip import ClipShape
from ccl_jax.data.encode import batches, buckets, staging
from ccl_jax.data.encode.captions import list_clips
from ccl_jax.data.encode.clip_files import ClipFile
from ccl_jax.data.encode.cuts import describe_cuts
from ccl_jax.data.encode.decode_pool import DecodePool
from ccl_jax.data.encode.fit_codecs import fit_codecs
from ccl_jax.data.encode.left_out import no_usable_clip, write_left_out
from ccl_jax.data.encode.settings import FITTED, EncodeSettings
from ccl_jax.data.encode.splits import assign_splits
from ccl_jax.data.encode.summary import Summary, summarize
from ccl_jax.data.encode.windows import cut_windows
from ccl_jax.params.sharding import ONE_DEVICE, Layout
from ccl_jax.processes import distributed
from ccl_jax.processes.distributed import SINGLE_PROCESS, ShardOptions

# Settings that do not change the examples: they may differ when resuming.
_NOT_IN_PLAN = ("num_workers", "batch_size", "weights")


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
  images = any(shape.frames == 1 for shape in settings.shapes)
  listing = list_clips(folder, captions, strict, images)
  kept = listing.clips if keep is None else keep(listing.clips)
  whole = buckets.assign_buckets(assign_splits(kept, settings), settings)
  clip_files = cut_windows(whole, settings)
  plan = make_plan(clip_files, settings, fits_codecs=codecs is None)
  _open_staging(output, plan, force, share)
  if share.is_lead:
    _print_shapes(whole, clip_files, settings)
  work = staging.staging_dir(output)
  num_before = sum(m.count for m in read_all_manifests(work, settings))
  try:
    seconds = _encode(output, clip_files, settings, codecs, layout, share)
  except BaseException:
    if share.is_lead:
      keep_or_discard(output, settings)
    raise
  summary = summarize(read_all_manifests(output, settings))
  summary.without_caption = sum(not file.caption for file in clip_files)
  summary.not_clips = dict(listing.not_clips)
  summary.missing = listing.missing
  summary.filtered = len(listing.clips) - len(kept)
  summary.fresh -= num_before
  summary.seconds = seconds
  return summary


def _open_staging(
  output: epath.PathLike,
  plan: Mapping[str, Any],
  force: bool,
  share: ShardOptions,
) -> None:
  """Opens the staging folder in the lead process, for all to see."""
  if share.is_lead:
    staging.open_output(output, plan, force)
  if share.shard_count > 1:
    distributed.barrier("the staging folder is ready")
  staging.check_visible(output)


def _print_shapes(
  whole: Sequence[ClipFile],
  windows: Sequence[ClipFile],
  settings: EncodeSettings,
) -> None:
  """Prints how many windows have which shape, and what of clips is cut."""
  if settings.buckets:
    counts = buckets.count_shapes(windows, settings)
    print(f"Clips: {buckets.describe(counts)} (frames x y x x).")
  if cuts := describe_cuts(whole, settings):
    print(cuts)


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
    # The batch size, rounded up to a multiple of the mesh's.
    rows = settings.batch_size + -settings.batch_size % layout.batch_shards()
    start, num_jobs = time.monotonic(), 0
    for shape, path in bucket_folders(work, settings).items():
      own = [f for f in clip_files if f.shape in (None, shape)]
      jobs = batches.make_jobs(own, settings.clips_per_shard)
      num_jobs += len(jobs)
      mine = jobs[share.shard_index :: share.shard_count]
      schema = make_schema(codecs, settings, shape)
      batches.encode_shards(path, mine, pool, codecs, schema, rows)
    seconds = time.monotonic() - start
  if not share.is_lead:
    distributed.wait_until(lambda: staging.is_committed(output))
    return seconds
  folders = bucket_folders(work, settings).values()
  distributed.wait_until(
    lambda: sum(map(shards.count_manifests, folders)) == num_jobs
  )
  finalize(work, settings, codecs)
  staging.commit(output)
  return seconds


def bucket_folders(
  folder: epath.PathLike, settings: EncodeSettings
) -> dict[ClipShape, epath.Path]:
  """Returns the folder of the records of each shape.

  The first is the data set itself, so that it is one like any other; those of
  the other shapes are below it.
  """
  folder = epath.Path(folder)
  first, *others = settings.shapes
  return {first: folder} | {shape: folder / str(shape) for shape in others}


def read_all_manifests(
  folder: epath.PathLike, settings: EncodeSettings
) -> list[shards.ShardManifest]:
  """Returns the manifests of all shapes."""
  folders = bucket_folders(folder, settings).values()
  return [each for path in folders for each in shards.read_manifests(path)]


def finalize(
  work: epath.Path, settings: EncodeSettings, codecs: Codecs
) -> None:
  """Makes complete shards a data set, or one of each shape.

  Raises:
    ValueError: no usable clip, or none of one of the shapes; latents that are
      far from mean 0 and deviation 1.
  """
  manifests = read_all_manifests(work, settings)
  summary = summarize(manifests)
  if not summary.encoded:
    raise no_usable_clip(summary.left_out)
  folders = bucket_folders(work, settings)
  for shape, path in folders.items():
    own = summarize(shards.read_manifests(path))
    if not own.encoded:
      raise ValueError(
        f"encode.buckets: leave out {shape} (frames x y x x)."
        f" {no_usable_clip(own.left_out)}"
      )
  statistics = shards.latent_statistics(manifests)
  write_left_out(work, summary.left_out)
  below = [f"{shape}" for shape in settings.shapes[1:]]
  # The first one last, as its metadata.json says that all are complete.
  for shape, path in reversed(folders.items()):
    schema = make_schema(codecs, settings, shape)
    if path != work:
      codecs.save(path / "codecs")
    records.finalize(
      path, schema, codecs, shape, statistics, below if path == work else ()
    )


def make_plan(
  clip_files: Sequence[ClipFile], settings: EncodeSettings, fits_codecs: bool
) -> dict[str, Any]:
  """Returns all that the examples depend on; shards of equal plans fit."""
  rows = [
    (f.name, f.caption, f.split, *([f"{f.shape}"] if f.shape else []))
    for f in clip_files
  ]
  digest = hashlib.sha256(json.dumps(rows).encode()).hexdigest()
  fields = dataclasses.asdict(settings)
  if not settings.buckets:  # as plans of early versions
    del fields["buckets"], fields["max_upscale"]
  return {
    "clips": {"number": len(clip_files), "digest": digest},
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

  Args:
    codecs: saved as they are; None fits new ones, or loads what an earlier run
      fitted.

  Raises:
    ValueError: the folder holds other codecs.
  """
  path, last_file = work / "codecs", work / "codecs" / "codecs.json"
  if share.is_lead and not last_file.exists():
    (codecs or fit_codecs(clip_files, pool, settings)).save(path)
  distributed.wait_until(last_file.exists)
  saved = Codecs.load(path)
  if codecs is not None and not codecs.equals(saved):
    raise ValueError(
      f"{work} was started with other codecs. Resume with them"
      f" (--codecs={path}), or start anew with --force."
    )
  return codecs or saved


def make_schema(
  codecs: Codecs, settings: EncodeSettings, shape: ClipShape
) -> shards.RecordSchema:
  """Returns the schema of the examples of a shape."""
  logvar = []
  if settings.keep_logvar:
    logvar = [x for x in STREAMS if getattr(codecs, x).has_logvar]
  return shards.RecordSchema.from_codecs(codecs, shape, logvar)


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


def keep_or_discard(output: epath.PathLike, settings: EncodeSettings) -> None:
  """Keeps the staging folder after an error if it holds complete shards."""
  work = staging.staging_dir(output)
  count = sum(m.count for m in read_all_manifests(work, settings))
  if count:
    logging.warning(
      "%d encoded clips are kept in %s; the same command resumes.", count, work
    )
  else:
    staging.discard(output)
