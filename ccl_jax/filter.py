r"""Scores clips and images of a folder, so that encoding can leave some out:

    python -m ccl_jax.filter --input=CLIPS [--output=CLIPS/scores.jsonl]
    python -m ccl_jax.encode --input=CLIPS ... \
        --keep='static < 0.9 and lufs > -40 and not duplicate'

`data.scores.measures` lists the scores. The same command resumes; in the end it
prints a histogram of each score. With --keep it also prints how many clips meet
a condition.
"""

from absl import flags
from etils import epath

from ccl_jax import command
from ccl_jax.data.encode.clip_files import list_clip_files
from ccl_jax.data.scores import measures, table

INPUT = flags.DEFINE_string("input", None, "Folder of clips.")
OUTPUT = flags.DEFINE_string(
  "output", None, "File to write; by default scores.jsonl in --input."
)
WORKERS = flags.DEFINE_integer(
  "workers", 2, "Processes that decode; 0 decodes in this one.", lower_bound=0
)
MAX_SECONDS = flags.DEFINE_float(
  "max_seconds", 60.0, "Seconds of each clip that are looked at, at most.",
  lower_bound=1.0,
)  # fmt: skip
FORCE = flags.DEFINE_bool(
  "force", False, "Score clips again that have scores already."
)
KEEP = flags.DEFINE_string(
  "keep", None, "Condition on the scores to try, as encode's --keep."
)


def main() -> None:
  """Scores the folder of the flags."""
  if KEEP.value:
    table.parse_condition(KEEP.value)  # before the long work
  scores = table.score_folder(
    INPUT.value,
    OUTPUT.value or epath.Path(INPUT.value) / table.FILE,
    num_workers=WORKERS.value,
    max_seconds=MAX_SECONDS.value,
    force=FORCE.value,
  )
  failed = sum(row["error"] is not None for row in scores.values())
  duplicates = sum(row["duplicate"] for row in scores.values())
  print(
    f"Scored {len(scores)} clips; {failed} cannot be decoded, {duplicates} are"
    f" like another one.\n{measures.describe(scores)}"
  )
  if KEEP.value:
    clip_files = list_clip_files(INPUT.value, images=True)
    kept = table.keep(clip_files, KEEP.value, scores)
    print(f"{len(kept)} of {len(scores)} clips meet {KEEP.value!r}.")


if __name__ == "__main__":
  command.run(main, ("input",))
