"""A program of flite's name, that prints and writes as flite does."""

import numpy as np
import soundfile

PHONES = (
  "pau:0.100 ax:0.200 m:0.300 ae:0.600 p:0.700 ow:1.000 s:1.100 pau:1.150"
)


def install(folder):
  """Writes it; whatever the sentence is, it sounds the same.

  Returns:
    The folder, to be the first of PATH.
  """
  folder.mkdir(exist_ok=True)
  wave = 0.1 * np.sin(np.arange(round(1.15 * 16000)) / 5)
  wave[:1600] = wave[-800:] = 0
  soundfile.write(folder / "source.wav", wave, 16000)
  program = folder / "flite"
  program.write_text(
    "#!/bin/sh\nfor last; do :; done\n"
    f'cp "{folder}/source.wav" "$last"\necho "{PHONES}"\n'
  )
  program.chmod(0o755)
  return folder
