#!/usr/bin/env bash
# Runs the complete system on a laptop CPU: makes a synthetic world of talking
# faces and bouncing balls, encodes it, trains the tiny model on all tasks at
# once, generates held-out clips and scores them. Finished parts are kept.
#   bash launch/demo.sh [FOLDER]          (default runs/demo)
if [[ ${1-} == -* ]]; then
  sed -n '2,/^[^#]/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
  [[ $1 == --help ]] && exit || exit 1
fi
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}"
folder="${1:-runs/demo}"
config=configs/ccl.py:size=tiny
began=$SECONDS
say() { printf '\n== %s (%d s so far)\n' "$1" "$((SECONDS - began))"; }

say "Installing into .venv"
install requirements.txt

say "Making the world: $folder/world"
[ -d "$folder/world" ] ||
  python -m ccl_jax.world --output="$folder/world" \
    --num_train=1200 --num_test=32

say "Encoding it: $folder/latents"
[ -d "$folder/latents" ] ||
  python -m ccl_jax.encode --config=$config --config.encode.codec=conv \
    --input="$folder/world" --output="$folder/latents"

say "Training: $folder/run"
python -m ccl_jax.train --config=$config --workdir="$folder/run" \
  --config.data.path="$folder/latents" --config.eval.split=easy

say "Generating and scoring held-out clips: $folder/results"
python -m ccl_jax.evaluate --workdir="$folder/run" --data="$folder/latents" \
  --clips="$folder/world" --output="$folder/results"

say "One prompt of your own: $folder/prompt"
python -m ccl_jax.sample --workdir="$folder/run" --output="$folder/prompt" \
  --task=t2av --prompt='A red face talks. A ball bounces. "a i u" A low voice. Clicks.'

say "Done"
echo "Look at $folder/results/sheet.png, $folder/results/easy/*.mp4," \
  "$folder/run/loss.png and $folder/prompt."
