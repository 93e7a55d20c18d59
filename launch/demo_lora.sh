#!/usr/bin/env bash
# Fine-tunes the model of demo.sh by LoRA on 40 clips of another world, of square
# faces with each other's voices; scores it there and on the old world, before and
# after, on held-out clips; and compares the samples of PyTorch with the LoRA's
# file. Finished parts are kept.
#   bash launch/demo_lora.sh [FOLDER]     (default runs/demo, that of demo.sh)
if [[ ${1-} == -* ]]; then
  sed -n '2,/^[^#]/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
  [[ $1 == --help ]] && exit || exit 1
fi
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
folder="${1:-runs/demo}"
[ -d "$folder/prompt" ] || bash launch/demo.sh "$folder"
export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}"
new="$folder/square"
config=configs/lora.py:size=tiny
began=$SECONDS
say() { printf '\n== %s (%d s so far)\n' "$1" "$((SECONDS - began))"; }
score() { # NAME RUN WORLD [FLAGS]
  [ -f "$new/$1/table.md" ] ||
    python -m ccl_jax.evaluate --workdir="$2" --data="$3/latents" \
      --clips="$3/world" --output="$new/$1" --splits=easy "${@:4}"
}

say "Making 40 clips of another world, and held-out ones: $new/world"
[ -d "$new/world" ] ||
  python -m ccl_jax.world --output="$new/world" --style=square \
    --num_train=40 --num_test=32

say "Encoding it with the codecs of the model: $new/latents"
[ -d "$new/latents" ] ||
  python -m ccl_jax.encode --config=$config --input="$new/world" \
    --output="$new/latents" --codecs="$folder/latents/codecs"

say "Training the LoRA; the best step on held-out clips is kept: $new/run"
python -m ccl_jax.train --config=$config --workdir="$new/run" \
  --config.data.path="$new/latents" --config.num_train_steps=400 \
  --config.init.from_runs="(('.*', '$folder/run'),)" \
  --config.eval.split=easy --config.eval.tasks='()' \
  --config.eval.loss_every_steps=50 --config.checkpoint.save_interval_steps=50 \
  --config.checkpoint.keep_best=held_out/loss

say "Scores on the new world: before, after; and on the old one, after"
score before "$folder/run" "$new"
score after "$new/run" "$new" --step=best
score old "$new/run" "$folder" --step=best

say "Installing PyTorch into .venv"
install requirements.txt tests/requirements.txt

say "The LoRA's file, on the old model in PyTorch: $new/lora"
[ -d "$new/lora" ] ||
  python -m ccl_jax.convert to-torch --workdir="$new/run" --step=best \
    --component=lora --output="$new/lora"
python -m tests.bench.torch_sync --workdir="$folder/run" --lora="$new/lora" \
  --data="$new/latents" --splits=easy --tasks=a2v,v2a --num=4

say "Done"
echo "Look at $new/{before,after,old}/table.md and sheet.png, $new/run/loss.png."
