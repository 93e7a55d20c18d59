"""Draws the figures of README.md from the results of the demo:

    python launch/figures.py [--results=runs/demo/results] [--output=DIR]

model.svg is a drawing; samples.png shows a held-out scene, made in three ways.
"""

import matplotlib
import numpy as np
from absl import flags
from matplotlib import pyplot
from matplotlib.patches import FancyBboxPatch
from PIL import Image

from ccl_jax import command
from ccl_jax.data import media
from ccl_jax.data.contact_sheet import sound_image

RESULTS = flags.DEFINE_string("results", "runs/demo/results", "Folder to read.")
OUTPUT = flags.DEFINE_string("output", "launch/figures", "Folder to write to.")

SCENE = "easy/easy_1000003"
MADE = {"t2av": "text → both", "a2v": "audio → video", "v2a": "video → audio"}
BLUE, ORANGE, GREEN = "#2f6db5", "#dd7d1e", "#2a9163"
INK, GREY, LINE = "#24292f", "#646c76", "#d0d7de"
COLORS = {"video": BLUE, "audio": ORANGE, "→": GREY}


def new_card(height):
  """Starts a figure: a white card, measured in pixels from its top left."""
  figure = pyplot.figure(figsize=(9, height / 100), dpi=100)
  figure.add_axes((0, 0, 1, 1), xlim=(0, 900), ylim=(height, 0)).axis("off")
  box(0.5, 0.5, 899, height - 1, "white", LINE)


def box(x, y, w, h, color, edge="none", radius=0, **style):
  """Draws a rectangle, perhaps with round corners."""
  shape = f"round,pad=0,rounding_size={radius}" if radius else "square,pad=0"
  style = dict(fc=color, ec=edge, clip_on=False) | style
  pyplot.gca().add_patch(FancyBboxPatch((x, y), w, h, shape, **style))


def text(x, y, words, color=GREY, ha="center", size=11, **style):
  """Writes words around the height y; returns their right end."""
  style = dict(ha=ha, va="center", size=0.72 * size, color=color) | style
  return pyplot.text(x, y, words, **style).get_window_extent().x1


def title(x, y, task):
  """Writes "text → video" from x on, each stream in its color."""
  for word in task.split():
    color = COLORS.get(word, INK)
    x = 4 + text(x, y, word, color, "left", 12, weight="bold")


def arrow(start, end, color):
  """Draws an arrow from what is read to its reader."""
  style = dict(arrowstyle="-|>", shrinkA=0, shrinkB=0, mutation_scale=8)
  pyplot.annotate("", end, start, arrowprops=dict(color=color, **style))


def context(x, y, columns=1, rows=1):
  """Draws context tokens; the centre of the first is (x, y)."""
  style = dict(lw=4.2, dashes=(0, 5.4 / 4.2), dash_capstyle="round")
  ends = np.array([x, x + 7.5 * columns - 7.4])
  for height in y + 7.5 * np.arange(rows):
    pyplot.plot(ends, 0 * ends + height, color=GREEN, clip_on=False, **style)


def draw_block():
  """Draws the layers of a block, and what its context attention reads."""
  text(20, 30, "Block of both streams", INK, "left")
  layers = ((172, 131, "self-attention"), (333, 131, "text attention"))
  layers += ((494, 226, "cross-modal context attention"), (750, 78, "MLP"))
  for x, w, layer in layers:
    fill, ink = (GREEN, "white") if w == 226 else ("white", INK)
    box(x, 16, w, 28, fill, LINE, 6)
    text(x + w / 2, 30, layer, ink)
    arrow((x + w + 4, 30), (x + w + 26, 30), GREY)
  text(858, 30, "x N", INK, "left")
  arrow((607, 45), (607, 59), GREEN)
  box(20, 60, 860, 236, "#f6f8fa", LINE, 8)
  for f in range(7):
    x, color = 172 + 80 * f, BLUE if f in (2, 5) else "#d6e4f5"
    for i in range(12):  # tokens of the frame
      box(x + i % 4 * 18.7, 82 + i // 4 * 17, 17.4, 15.7, color)
    for i in range(5):  # audio latents of its time
      read = f in (1, 2, 3) or (f, i) == (5, 2)
      box(x + i * 15, 214, 13.5, 36, ORANGE if read else "#fbe5cd")
  box(329, 79, 79.5, 55.7, "none", INK, 3, lw=1.4)
  box(599.5, 211, 18.5, 42, "none", INK, 3, lw=1.4)
  style = dict(alpha=0.16, lw=0)
  pyplot.fill_betweenx((135, 214), (329, 252), (408.5, 486), fc=ORANGE, **style)
  pyplot.fill_betweenx((211, 132), (599.5, 572), (618, 646), fc=BLUE, **style)
  text(368, 196, "reads the audio of three frames", "#a85a0c")
  text(578, 174, "reads the video\nof its own frame", BLUE, "right")
  text(36, 98, "Video stream", BLUE, "left", 13, weight="bold")
  text(36, 118, "tokens of each frame", ha="left")
  text(748, 224, "Audio stream", ORANGE, "left", 13, weight="bold")
  text(748, 244, "5 latents a frame", ha="left")
  context(39, 232, columns=8)
  arrow((97, 231), (327, 138), GREEN)
  text(36, 250, "8 context tokens", GREEN, "left")
  context(751, 82, columns=16, rows=8)
  arrow((747, 138), (620, 209), GREEN)
  text(748, 154, "128 context tokens", GREEN, "left")
  arrow((172, 263), (728, 263), "#aab2bb")
  text(164, 263, "time", ha="right")
  text(449, 280, "Learnable context tokens (LCT) are read at all times.")


def draw_route(x, task):
  """Draws who is generated and who reads whom."""
  source, both, y = task.split()[0], "both" in task, 357
  box(x, 308, 164, 90, "white", LINE, 8)
  title(x + 16, 325, task)
  x += {"text → video": 25, "text → audio": -25}.get(task, 0)
  for stream, at, dot, tip in (("video", 42, 16, 40), ("audio", 92, 148, 124)):
    if not both and stream not in task:
      continue
    fill, ink, dash = COLORS[stream], "white", "-"
    if stream == source:
      fill, ink, dash = "white", fill, (0, (3, 2))
      text(x + at + 15, y + 27, "given")
    box(x + at, y - 15, 30, 30, fill, COLORS[stream], 4, ls=dash)
    text(x + at + 15, y, stream[0].upper(), ink, size=14, weight="bold")
    context(x + dot, y)
    arrow((x + dot + (tip - dot) / 4, y), (x + tip, y), GREEN)
  if both or source == "audio":
    arrow((x + 91, y - 7 * both), (x + 74, y - 7 * both), ORANGE)
  if both or source == "video":
    arrow((x + 73, y + 7 * both), (x + 90, y + 7 * both), BLUE)


def draw_clip(x, clip):
  """Draws four frames of a clip, and its log-mel in the same time."""
  gap = ((0, 0), (0, 4), (0, 2), (0, 0))
  frames = np.pad(clip.video[6:48:12], gap, constant_values=255)
  frames = np.concatenate(frames, 1)[:, :-2].repeat(2, 0).repeat(2, 1)
  mel = sound_image(clip.audio, (80, 524))
  style = dict(extent=(x, x + 262, 146, 38), interpolation="nearest", zorder=2)
  pyplot.imshow(np.concatenate([frames, mel]), aspect="auto", **style)


def main():
  """Writes both figures."""
  matplotlib.rcParams["svg.hashsalt"] = "ccl_jax"  # the same bytes every time
  new_card(414)
  draw_block()
  for i, task in enumerate(["text → video", "text → audio", *MADE.values()]):
    draw_route(20 + 174 * i, task)
  pyplot.savefig(f"{OUTPUT.value}/model.svg", metadata={"Date": None})
  new_card(164)
  for i, (name, task) in enumerate(MADE.items()):
    title(20 + 299 * i, 22, task)
    clip = media.read_clip(f"{RESULTS.value}/{SCENE}_{name}.mp4")
    draw_clip(20 + 299 * i, clip)
  pyplot.savefig(path := f"{OUTPUT.value}/samples.png", dpi=200)
  image = Image.open(path).convert("RGB").quantize(256, kmeans=1, dither=0)
  image.save(path, optimize=True)


if __name__ == "__main__":
  command.run(main, ())
