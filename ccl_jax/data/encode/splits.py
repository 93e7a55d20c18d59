"""Chooses the split of clips whose captions name none."""

from collections.abc import Sequence

from ccl_jax.data import records
from ccl_jax.data.encode.clip_files import ClipFile
from ccl_jax.data.encode.settings import EncodeSettings


def assign_splits(
  clip_files: Sequence[ClipFile], settings: EncodeSettings
) -> list[ClipFile]:
  """Returns the clips with a split by hash where the captions name none.

  If by chance "validation" would get none of several clips, it gets the one
  with the lowest hash; "train" likewise gets the one with the highest. All
  segments of a file are in one split.
  """
  fraction = settings.validation_fraction
  hashed = {
    file.name: records.split_by_hash(file.name, fraction)
    for file in clip_files
    if not file.split
  }
  candidates = sorted(
    {
      file.name
      for file in clip_files
      if file.name in hashed
      and not file.problem
      and (file.caption or not settings.need_caption)
    },
    key=records.hash_to_uniform,
  )
  if fraction and len(candidates) > 1:
    # Of these, as the others are left out.
    used = {hashed[name] for name in candidates}
    used |= {file.split for file in clip_files}
    if "validation" not in used:
      hashed[candidates[0]] = "validation"
    if "train" not in used:
      hashed[candidates[-1]] = "train"
  return [
    file._replace(split=file.split or hashed[file.name]) for file in clip_files
  ]
