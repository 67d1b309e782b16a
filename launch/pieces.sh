#!/usr/bin/env bash
# Trains a run in pieces, on machines that do not last and from which only a few files are kept.
set -euo pipefail

usage() {
  cat <<'HELP'
launch/pieces.sh [-m MINUTES] [-g SECONDS] [-i FOLDER] -o FOLDER [--eval]
                 -- --config=... [--config.KEY=VALUE...]

Runs one piece of a training and leaves in the folder of -o what the next piece needs:

  run.npz.00, run.npz.01, ...  the run as `lm2 pack` writes it, in files of at most 15 MB
  metrics.jsonl, output.log    its metrics until here, and what this piece printed
  results.json                 of an evaluation that has ended

  -m MINUTES  after which the piece saves and ends (8); compilation counts
  -g SECONDS  that this last save may take (45); a piece that takes longer is killed, and what it
              had saved before is kept
  -i FOLDER   the files of the piece before; without it, the run begins
  -o FOLDER   where the files go
  --eval      evaluate the run as it is (lm2 eval) and do not train

A piece goes on at the next step of data, curriculum and learning rate. It has the parameters
rounded to bfloat16, two bytes each, and not the optimizer's moments, so that the learning rate
rises again over train.warmup_steps. A piece that reaches the last step evaluates in the time that
is left. If that is too short, the next piece begins this evaluation again, as rounding has changed
the parameters; an evaluation that a piece began is resumed by the next one.

Where time runs short, a later piece may have a lower --config.train.num_steps: the learning rate
then falls sooner.

For example, each on a machine of its own:

  data=(--config.eval.babi=BABI/en-10k --config.data.background=BOOKS/train
        --config.eval.background=BOOKS/test)
  launch/pieces.sh -o out1 -- --config=configs/babilong_qa1_5.py "${data[@]}"
  launch/pieces.sh -i out1 -o out2 -- --config=configs/babilong_qa1_5.py "${data[@]}"
  launch/pieces.sh -i out2 -o out3 --eval -- --config=configs/babilong_qa1_5.py "${data[@]}"

It runs lm2 unpack, lm2 train --config=configs/babilong_qa1_5.py --workdir=... (or lm2 eval) and lm2
pack, as `python3 -m lm2_jax.cli` of this checkout, which need not be installed.

Environment:
  PYTHON  Python that has the dependencies (python3)
  SCRATCH  folder for the workdir, on a local disk (a new temporary one)
HELP
}

fail() {
  echo "pieces.sh: $1" >&2
  exit 2
}

minutes=8 grace=45 before='' out='' action='train'
while (($#)); do
  case $1 in
    -m | -g | -i | -o)
      (($# >= 2)) || fail "$1 needs a value (--help explains)"
      case $1 in
        -m) minutes=$2 ;;
        -g) grace=$2 ;;
        -i) before=$2 ;;
        -o) out=$2 ;;
      esac
      shift 2
      ;;
    --eval) action='eval' && shift ;;
    -h | --help) usage && exit ;;
    --) shift && break ;;
    *) fail "unknown argument $1; the config comes after -- (--help explains)" ;;
  esac
done
[[ -n $out ]] || fail "no -o FOLDER for what the next piece needs (--help explains)"
[[ $minutes =~ ^[0-9]+(\.[0-9]+)?$ ]] || fail "-m is '$minutes'; it must be a number of minutes"
[[ $grace =~ ^[0-9]+(\.[0-9]+)?$ ]] || fail "-g is '$grace'; it must be a number of seconds"
(($#)) || fail "no config; for example: pieces.sh -o out -- --config=configs/babilong_qa1_5.py"
shopt -s nullglob extglob
parts=(${before:+"$before"/run.npz.*})
[[ -z $before && $action == train ]] || ((${#parts[@]})) ||
  fail "no run.npz.* in '$before' (-i), so there is nothing to go on from"

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
scratch=${SCRATCH:-$(mktemp -d)}
workdir=$scratch/run
mkdir -p "$out" "$scratch"
exec > >(tee "$out/output.log") 2>&1
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1

lm2() {
  "${PYTHON:-python3}" -m lm2_jax.cli "$@"
}

if ((${#parts[@]})); then
  cat "${parts[@]}" >"$scratch/before.npz"
  lm2 unpack "$scratch/before.npz" "--workdir=$workdir"
  rm "$scratch/before.npz"
fi

# The exit status is that of lm2: 0 also if it saved after SIGTERM, 143 in an evaluation; 137 if it
# was killed.
status=0
timeout --preserve-status --signal=TERM --kill-after="${grace}s" "${minutes}m" "${PYTHON:-python3}" -m lm2_jax.cli \
  "$action" "--workdir=$workdir" "$@" || status=$?

checkpoints=("$workdir"/checkpoints/+([0-9]))
if ((${#checkpoints[@]})); then
  lm2 pack "--workdir=$workdir" "--out=$scratch/after.npz"
  rm -f "$out"/run.npz.*
  split --bytes=15000000 --numeric-suffixes "$scratch/after.npz" "$out/run.npz."
else
  echo "pieces.sh: nothing was saved in this piece; a run.npz in $out is from before" >&2
  ((status)) || status=1
fi
for file in metrics.jsonl eval/results.json; do
  [[ ! -f $workdir/$file ]] || cp "$workdir/$file" "$out"
done
[[ -n ${SCRATCH:-} ]] || rm -r "$scratch"
exit "$status"
