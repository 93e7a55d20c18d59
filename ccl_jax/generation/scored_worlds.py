"""Worlds whose generated clips are scored, and the references beside them.

References are the ground truth (the clips themselves), the codecs' ceiling (the
clips encoded and decoded), generators that read the prompt and ignore the other
stream, through the same codecs, and clips with the sound of another clip.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Float, UInt8

from ccl_jax.array_types import STREAMS
from ccl_jax.codecs.mel import griffin_lim, log_mel
from ccl_jax.data import media
from ccl_jax.data.clip import GeneratedClip
from ccl_jax.data.synthetic import english as speech
from ccl_jax.data.synthetic.render import render_video
from ccl_jax.data.synthetic.scene import MARGIN, Scene
from ccl_jax.data.synthetic.sound import render_sound
from ccl_jax.generation import stages
from ccl_jax.generation.pipeline import Pipeline
from ccl_jax.metrics import blind, bootstrap, english, synchworld
from ccl_jax.metrics.real.words import spoken_words
from ccl_jax.storage.text_files import read_objects

Clips = Mapping[str, Any]  # of `data.loader.read_clips`
# Name of what to compare with -> measurements of its clips.
References = dict[str, list[synchworld.ClipScores]]


class VowelWorld:
  """The world of vowels and balls."""

  def __init__(self, pipeline: Pipeline, folder: epath.Path | None):
    self.pipeline, self.folder = pipeline, folder

  def measure(
    self,
    clips: Clips,
    made: Sequence[GeneratedClip],
    given: Sequence[str] = (),
  ) -> list[synchworld.ClipScores]:
    """Measures each clip alone; given: the streams that are the truth's."""
    mels = [
      None if x.audio is None else log_mel(np.nan_to_num(x.audio)[None])[0]
      for x in made
    ]
    return self._score(clips["caption"], [x.video for x in made], mels)

  def _score(self, prompts, videos, mels) -> list[synchworld.ClipScores]:
    rows = zip(prompts, videos, mels, strict=True)
    return [synchworld.measure(*row, self.pipeline.shape.fps) for row in rows]

  def references(self, clips: Clips) -> References:
    """Measures ground truth, ceiling, blind generators and shuffled clips."""
    prompts, shape, found = clips["caption"], self.pipeline.shape, {}
    score = functools.partial(self._score, prompts)
    if self.folder:
      originals = read_originals(clips["name"], self.folder, self.pipeline)
      found["ground truth"] = self.measure(clips, originals)
    decoded = stages.decode(self.pipeline, {s: clips[s] for s in STREAMS})
    videos = [x.video for x in decoded]
    mels = [log_mel(x.audio[None])[0] for x in decoded]
    found["codec ceiling"] = score(videos, mels)
    blind_a2v, blind_v2a = [], []
    for strategy in blind.STRATEGIES:
      scenes = [
        blind.make_scene(prompt, strategy, shape.seconds, seed)
        for seed, prompt in enumerate(prompts)
      ]
      blind_a2v.append(score(self._render_videos(scenes), mels))
      blind_v2a.append(score(videos, self._render_mels(scenes)))
    # With the mean mouth, the rest of the scenes is that of the last strategy.
    mouth = blind.mean_mouth(shape.frames, shape.fps)
    blind_a2v.append(score(self._render_videos(scenes, mouth), mels))
    found["blind a2v"] = bootstrap.best(blind_a2v)
    found["blind v2a"] = bootstrap.best(blind_v2a)
    found["blind"] = bootstrap.best(blind_a2v + blind_v2a)
    others = synchworld.shuffle(prompts)
    found["shuffled"] = score(videos, [mels[i] for i in others])
    return found

  def _render_videos(
    self,
    scenes: Sequence[Scene],
    mouth: tuple[np.ndarray, np.ndarray] | None = None,
  ) -> UInt8[np.ndarray, "b t y x 3"]:
    """Returns videos through the codec; mouth: of all, see `render_video`."""
    shape, codec = self.pipeline.shape, self.pipeline.codecs.video
    videos = [
      render_video(x, shape.frames, shape.fps, shape.size[0], mouth)
      for x in scenes
    ]
    return codec.decode(codec.encode(np.stack(videos)))

  def _render_mels(
    self, scenes: Sequence[Scene]
  ) -> Float[np.ndarray, "b k mels"]:
    """Returns the log-mels of the sounds, through the codec."""
    codec = self.pipeline.codecs.audio
    sounds = [render_sound(x, codec.sample_rate) for x in scenes]
    return codec.mel(codec.encode(np.stack(sounds)))


class EnglishWorld:
  """The world of English sentences, scored by `metrics.english`."""

  def __init__(self, pipeline: Pipeline, folder: epath.Path):
    self.pipeline, self.folder = pipeline, folder
    self.score = english.open_measure()
    speech.check_flite()
    self.phones = {
      row["file"]: [speech.Phone(*x) for x in row["phones"]]
      for _, row in read_objects(folder / speech.FILE)
    }

  def measure(
    self,
    clips: Clips,
    made: Sequence[GeneratedClip],
    given: Sequence[str] = (),
  ) -> list[synchworld.ClipScores]:
    """Measures each clip alone; given: the streams that are the truth's."""
    rows = zip(clips["name"], clips["caption"], made, strict=True)
    return [
      self.score(
        prompt, x.video, x.audio, x.fps, self.phones[name] if given else None
      )
      for name, prompt, x in rows
    ]

  def references(self, clips: Clips) -> References:
    """Measures the references, and the sound through mel and Griffin-Lim."""
    measure = functools.partial(self.measure, clips, given=STREAMS)
    originals = read_originals(clips["name"], self.folder, self.pipeline)
    decoded = stages.decode(self.pipeline, {s: clips[s] for s in STREAMS})
    prompts = clips["caption"]
    blinds = stages.decode(self.pipeline, self.make_blind(prompts))
    others = synchworld.shuffle(prompts)

    def joined(videos, sounds):
      pairs = zip(videos, sounds, strict=True)
      return measure([dataclasses.replace(x, audio=y.audio) for x, y in pairs])

    vocoded = [
      dataclasses.replace(x, audio=griffin_lim(log_mel(x.audio[None]))[0])
      for x in originals
    ]
    found = {
      "ground truth": measure(originals),
      "mel, Griffin-Lim": measure(vocoded),
      "codec ceiling": measure(decoded),
      "blind a2v": joined(blinds, decoded),
      "blind v2a": joined(decoded, blinds),
      "shuffled": joined(decoded, [decoded[i] for i in others]),
    }
    rows = [found["blind a2v"], found["blind v2a"]]
    return found | {"blind": bootstrap.best(rows)}

  def make_blind(self, prompts: Sequence[str]) -> dict[str, np.ndarray]:
    """Returns latents of faces that speak the prompts in the middle."""
    shape, codecs = self.pipeline.shape, self.pipeline.codecs
    videos, sounds = [], []
    for prompt in prompts:
      spoken = speech.speak(spoken_words(prompt))
      scene = blind.make_scene(prompt, "even", shape.seconds)
      start = max((shape.seconds - spoken.seconds) / 2, MARGIN)
      clip = speech.place(spoken, start, scene)
      videos.append(speech.render(clip, shape.frames, shape.fps, shape.size[0]))
      sounds.append(clip.sound)
    return {
      "video": codecs.video.encode(np.stack(videos)),
      "audio": codecs.audio.encode(np.stack(sounds)),
    }


World = VowelWorld | EnglishWorld


def open_world(pipeline: Pipeline, folder: epath.PathLike | None) -> World:
  """Returns the world of a folder of clips; ValueError if none can score it."""
  path = epath.Path(folder) if folder else None
  if path and (path / speech.FILE).exists():
    return EnglishWorld(pipeline, path)
  return VowelWorld(pipeline, path)


def read_originals(
  names: Sequence[str], folder: epath.Path, pipeline: Pipeline
) -> list[GeneratedClip]:
  """Reads the clips in the shape that the model was trained on."""
  shape, rate = pipeline.shape, pipeline.codecs.audio.sample_rate
  clips = [
    media.read_clip(
      folder / name, fps=shape.fps, size=shape.size, frames=shape.frames,
      sample_rate=rate,
    )
    for name in names
  ]  # fmt: skip
  return [GeneratedClip(shape.fps, rate, c.video, c.audio) for c in clips]


def share_settings(
  measured: Mapping[tuple[str, ...], list[synchworld.ClipScores]],
  references: References,
) -> dict[str, bootstrap.Scores]:
  """Returns the share of the way from blind to ceiling, of each setting.

  Args:
    measured: (task,) or (task, guidance rule) -> measurements of its clips.
  """
  rows = {" ".join(s): (s[0], x) for s, x in measured.items()}
  rows["shuffled"] = ("", references["shuffled"])
  return {
    name: bootstrap.share(
      x,
      references.get(f"blind {task}", references["blind"]),
      references["codec ceiling"],
    )
    for name, (task, x) in rows.items()
  }
