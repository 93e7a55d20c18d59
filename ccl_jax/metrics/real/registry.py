"""The metrics of real clips by name, ordered by cost."""

from collections.abc import Sequence
from typing import NamedTuple

from ccl_jax.config import suggest
from ccl_jax.metrics.real import (
  aesthetics,
  clap,
  desync,
  signal,
  speech,
  sync,
  words,
)
from ccl_jax.metrics.real.metric import Metric, NotRunError, Options, Scorer

METRICS: dict[str, Metric] = {
  "sound": signal.SOUND,
  "pictures": signal.PICTURES,
  "loudness": speech.LOUDNESS,
  "speech": speech.SPEECH,
  "dnsmos": speech.DNSMOS,
  "wer": words.WER,
  "sync": sync.SYNC,
  "desync": desync.DESYNC,
  "aesthetics": aesthetics.AESTHETICS,
  "clap": clap.CLAP,
}


class OpenedMetrics(NamedTuple):
  """Metrics that run, and name -> why for those that do not."""

  scorers: dict[str, Scorer]
  not_run: dict[str, str]


def check_names(names: Sequence[str]) -> None:
  """Raises ValueError for an unknown metric, or without any metric."""
  if not names:
    raise ValueError(f"No metrics: expected some of {', '.join(METRICS)}.")
  for name in names:
    if name not in METRICS:
      raise ValueError(
        f"Unknown metric '{name}'.{suggest(name, list(METRICS))} Expected some"
        f" of {', '.join(METRICS)}."
      )


def open_metrics(names: Sequence[str], options: Options) -> OpenedMetrics:
  """Loads the packages and weights of metrics; see `check_names` first."""
  opened = OpenedMetrics({}, {})
  for name in names:
    try:
      opened.scorers[name] = METRICS[name].open(options)
    except NotRunError as error:
      opened.not_run[name] = str(error)
    except Exception as error:  # Packages raise almost anything.
      reason = " ".join(f"{error or type(error).__name__}".split())
      opened.not_run[name] = f"cannot be opened ({reason[:300]})"
  return opened
