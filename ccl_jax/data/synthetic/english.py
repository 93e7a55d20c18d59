"""Spoken English for the synthetic world: sentences, phones and mouth shapes.

flite (Debian's package, voice slt) speaks a sentence of a small grammar and
reports when each phone ends. The mouth of the face follows the phones: each
vowel opens it by its own height and width; m, b and p close it. When the
sentence begins and how fast it is spoken is random and not in the prompt.
Sentences of the test splits are never in the train split.
"""

import dataclasses
import pathlib
import re
import shutil
import subprocess
import tempfile
import zlib
from typing import NamedTuple

import numpy as np
import soundfile
from jaxtyping import Float, UInt8

from ccl_jax.data.synthetic import scene as scenes
from ccl_jax.data.synthetic.render import render_video

FILE = "phones.jsonl"  # beside the clips: the times of their phones
SAMPLE_RATE = 16_000  # of flite
PEAK, FLOOR = 0.5, 0.001  # of the wave; deviation of the noise below it
PAUSE = "pau"
SLOWEST, FASTEST = 1.15, 0.9  # as flite stretches durations
_SMOOTHING = 0.08  # seconds of the window over which a mouth moves
_STEP = 0.002  # seconds of the grid on which it does
_TEST_PART = 8  # one sentence in eight is one for tests

# Place in the grammar -> what may stand there, separated by commas: what flite
# says so that pocketsphinx understands it.
GRAMMAR = {
  "who": "my sister,my brother,my mother,my father,the teacher,the president,"
  "the lawyer,the company,the government,the family",
  "came": "came back,returned,went back,drove,went",
  "where": "to the river,from the market,through the forest,over the bridge,"
  "into the village,across the country,to the hospital,to the university,"
  "from the airport,into the building",
  "when": "today,yesterday,this morning,last summer,last week,on monday,"
  "in november,in the evening",
  "wants": "wants to,will not,did not,is going to,was able to",
  "buy": "buy a new house,open the window,see the doctor,change the system,"
  "support the program,leave the country,sell the property,read the letter,"
  "visit the museum,accept the offer",
  "soon": "tomorrow,next week,next summer,at the moment,on friday,in december",
}
SENTENCES = ("{who} {came} {where} {when}.", "{who} {wants} {buy} {soon}.")

# Phone -> how far it opens the mouth (0-1), and the mouth's half width.
MOUTHS = {
  "aa": (1.0, 4.8), "ae": (0.9, 5.4), "ah": (0.7, 4.6), "ao": (0.85, 4.0),
  "aw": (1.0, 4.6), "ax": (0.5, 4.4), "ay": (1.0, 5.2), "eh": (0.7, 5.4),
  "er": (0.45, 3.8), "ey": (0.65, 5.6), "ih": (0.45, 5.4), "iy": (0.4, 6.2),
  "ow": (0.75, 3.8), "oy": (0.8, 4.0), "uh": (0.45, 3.8), "uw": (0.35, 3.2),
  "w": (0.25, 3.2), "y": (0.3, 5.4), "r": (0.35, 3.8), "l": (0.35, 4.6),
  "hh": (0.45, 4.4), "k": (0.3, 4.4), "g": (0.3, 4.4), "ng": (0.3, 4.4),
  "dh": (0.25, 4.6), "th": (0.25, 4.6), "d": (0.2, 4.6), "n": (0.2, 4.6),
  "t": (0.2, 4.6), "s": (0.15, 5.0), "z": (0.15, 5.0), "ch": (0.2, 3.8),
  "jh": (0.2, 3.8), "sh": (0.2, 3.8), "zh": (0.2, 3.8), "f": (0.08, 4.4),
  "v": (0.08, 4.4), "m": (0.0, 4.0), "b": (0.0, 4.0), "p": (0.0, 4.0),
  PAUSE: (0.0, scenes.REST_WIDTH),
}  # fmt: skip


class Phone(NamedTuple):
  """A phone of flite's set, from `start` to `stop` seconds."""

  name: str
  start: float
  stop: float


@dataclasses.dataclass(frozen=True)
class Utterance:
  """A sentence, its phones without the pauses around it, and its wave."""

  sentence: str
  phones: tuple[Phone, ...]
  wave: Float[np.ndarray, " s"]

  @property
  def seconds(self) -> float:
    """Returns the length of the wave."""
    return len(self.wave) / SAMPLE_RATE

  def phones_at(self, start: float) -> tuple[Phone, ...]:
    """Returns the phones of the utterance if it begins at `start`."""
    return tuple(Phone(x, a + start, b + start) for x, a, b in self.phones)


class Clip(NamedTuple):
  """A clip before its video is rendered: faces, words, and sound."""

  scene: scenes.Scene
  sentence: str
  phones: tuple[Phone, ...]
  sound: Float[np.ndarray, " s"]


def draw_sentence(rng: np.random.Generator, is_test: bool) -> str:
  """Returns a sentence of the grammar, of its test part or of the other."""
  while True:
    words = {k: str(rng.choice(x.split(","))) for k, x in GRAMMAR.items()}
    sentence = str(rng.choice(SENTENCES)).format(**words).capitalize()
    if is_test == (zlib.crc32(sentence.encode()) % _TEST_PART == 0):
      return sentence


def check_flite() -> None:
  """Raises ValueError if flite is not installed."""
  if shutil.which("flite") is None:
    raise ValueError(
      "English is spoken by flite, which is not installed: apt-get install"
      " flite."
    )


def speak(sentence: str, stretch: float = 1.0) -> Utterance:
  """Returns the sentence as flite speaks it, the same bits every time.

  Args:
    stretch: of durations.

  Raises:
    ValueError: flite is not installed, or cannot speak this.
  """
  check_flite()
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / "a.wav"
    command = (
      "flite", "-voice", "slt", "-psdur", "--setf",
      f"duration_stretch={stretch:.3f}", "-t", sentence, "-o", str(path),
    )  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    phones = _parse_phones(done.stdout)
    if done.returncode or not any(x.name != PAUSE for x in phones):
      raise ValueError(
        f"flite cannot speak '{sentence}': {done.stderr.strip() or 'no phone'}."
      )
    wave, _ = soundfile.read(path, dtype="float32")
  spoken = [x for x in phones if x.name != PAUSE]
  start, stop = spoken[0].start, spoken[-1].stop
  wave = wave[round(start * SAMPLE_RATE) : round(stop * SAMPLE_RATE)]
  phones = tuple(Phone(x, a - start, b - start) for x, a, b in spoken)
  return Utterance(sentence, phones, PEAK * wave / np.abs(wave).max())


def _parse_phones(text: str) -> list[Phone]:
  """Reads "pau:0.192 dh:0.224 ...", each with the time of its end."""
  found = re.findall(r"(\w+):([\d.]+)", text)
  stops = [float(stop) for _, stop in found]
  names = [name for name, _ in found]
  return list(map(Phone, names, [0.0, *stops[:-1]], stops))


def draw_clip(
  seed: int, hard: bool, seconds: float, is_test: bool, style: str = "round"
) -> Clip:
  """Draws the clip of a seed; easy and hard ones have the same sound.

  Raises:
    ValueError: `seconds` is too short for the grammar's sentences.
  """
  rng = np.random.default_rng((seed, 3))
  for _ in range(20):
    spoken = speak(draw_sentence(rng, is_test), rng.uniform(FASTEST, SLOWEST))
    free = seconds - 2 * scenes.MARGIN - spoken.seconds
    if free > 0:
      start = scenes.MARGIN + free * rng.random()
      return place(spoken, start, silent_scene(seed, hard, seconds, style))
  raise ValueError(f"Sentences need 3.2 s, got {seconds=}; use more frames.")


def silent_scene(
  seed: int, hard: bool, seconds: float, style: str
) -> scenes.Scene:
  """Returns a scene of the world without vowels, ball and chirps."""
  scene = scenes.draw_scene(seed, hard, seconds, style)
  return dataclasses.replace(scene, syllables=(), ball=None, chirps=(), hum=0.0)


def place(spoken: Utterance, start: float, scene: scenes.Scene) -> Clip:
  """Returns the clip in which the scene's face begins to speak at `start`."""
  rng = np.random.default_rng((scene.seed, 2))
  sound = rng.normal(0, FLOOR, round(scene.seconds * SAMPLE_RATE))
  first = round(start * SAMPLE_RATE)
  part = spoken.wave[: len(sound) - first]
  sound[first : first + len(part)] += part
  return Clip(
    scene, spoken.sentence, spoken.phones_at(start), sound.astype(np.float32)
  )


def render(
  clip: Clip, frames: int, fps: float = 25.0, size: int = 64
) -> UInt8[np.ndarray, "t y x 3"]:
  """Returns the frames, in which the face speaks the phones."""
  mouth = mouth_of(clip.phones, np.arange(frames) / fps)
  return render_video(clip.scene, frames, fps, size, mouth)


def make_captions(clip: Clip) -> dict[str, str]:
  """Returns the captions "video", "speech" and "audio"."""
  heard = {"speech": clip.sentence, "audio": "A clear voice."}
  return scenes.make_captions(clip.scene) | heard


def mouth_of(
  phones: tuple[Phone, ...], time: Float[np.ndarray, " t"]
) -> tuple[Float[np.ndarray, " t"], Float[np.ndarray, " t"]]:
  """Returns half height and half width of the mouth at each time.

  It moves smoothly from phone to phone. Between phones it is closed.
  """
  end = max([0.0, *time.tolist(), *(x.stop for x in phones)])
  grid = np.arange(0, end + 2 * _STEP, _STEP)
  opening, width = np.zeros_like(grid), np.full_like(grid, scenes.REST_WIDTH)
  for name, start, stop in phones:
    span = slice(*np.searchsorted(grid, (start, stop)))
    opening[span], width[span] = MOUTHS.get(name, MOUTHS["ax"])
  window = np.hanning(round(_SMOOTHING / _STEP) | 1)
  window /= window.sum()

  def smooth(track: np.ndarray) -> np.ndarray:
    padded = np.pad(track, len(window) // 2, mode="edge")
    return np.interp(time, grid, np.convolve(padded, window, "valid"))

  return 1 + 7 * smooth(opening), smooth(width)
