"""Summary of an encoding run."""

import dataclasses
from collections.abc import Sequence

from ccl_jax.data import shards
from ccl_jax.data.encode.clip_files import describe_counts
from ccl_jax.data.encode.left_out import FILE, describe_reasons


@dataclasses.dataclass
class Summary:
  """Numbers of clips, and how fast this run was.

  Attributes:
    encoded: split -> number of clips.
    left_out: name -> reason.
    without_caption, cut_captions: numbers of clips.
    not_clips: suffix -> number of files that are no clips.
    missing: files that have a caption and are not there.
    filtered: number of clips that do not meet the condition of --keep.
    fresh: clips that this run encoded.
    seconds: that it took.
  """

  encoded: dict[str, int] = dataclasses.field(default_factory=dict)
  left_out: dict[str, str] = dataclasses.field(default_factory=dict)
  without_caption: int = 0
  cut_captions: int = 0
  not_clips: dict[str, int] = dataclasses.field(default_factory=dict)
  missing: Sequence[str] = ()
  filtered: int = 0
  fresh: int = 0
  seconds: float = 0.0

  def __str__(self) -> str:
    counts = ", ".join(f"{n} {split}" for split, n in self.encoded.items())
    total = sum(self.encoded.values())
    lines = [
      f"Encoded {total} clips ({counts}), left out {len(self.left_out)}."
      f" {self.without_caption} have no caption; {self.cut_captions} captions"
      " were cut to encode.text_length tokens. This run encoded"
      f" {self.fresh} clips in {self.seconds:.0f} s:"
      f" {self.fresh / max(self.seconds, 1e-9):.2f} clips/s."
    ]
    if self.left_out:
      lines.append(f"Left out (all in {FILE} of the output):")
      lines.append(describe_reasons(self.left_out))
    if self.not_clips:
      counts = describe_counts(self.not_clips)
      lines.append(f"Passed over, as they are no clips: {counts}.")
    if self.filtered:
      lines.append(
        f"{self.filtered} clips do not meet the condition of --keep."
      )
    if self.missing:
      lines.append(
        f"{len(self.missing)} files of the captions are not there, such as"
        f" {self.missing[0]} (an error with --strict)."
      )
    return "\n".join(lines)


def summarize(manifests: Sequence[shards.ShardManifest]) -> Summary:
  """Returns the sums over all shards."""
  summary = Summary(cut_captions=sum(m.cut_captions for m in manifests))
  for manifest in manifests:
    summary.fresh += manifest.count
    summary.left_out |= manifest.left_out
    if manifest.count:
      count = summary.encoded.get(manifest.split, 0)
      summary.encoded[manifest.split] = count + manifest.count
  return summary
