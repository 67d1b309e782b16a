#!/usr/bin/env bash
# Runs a command as several processes on this machine, each with virtual CPU devices.
set -euo pipefail

usage() {
  cat <<'HELP'
launch/local.sh [-n PROCESSES] [-d DEVICES] [-g SECONDS] [-p PORT] [--dry-run] -- COMMAND...

Starts COMMAND as one run of PROCESSES processes on this machine, each with DEVICES virtual CPU
devices. A run on the accelerators of one machine needs no launcher. For example:

  launch/local.sh -n 2 -d 4 -- lm2 train --config=configs/tiny.py --workdir=runs/tiny

  -n PROCESSES  number of processes (2)
  -d DEVICES    virtual CPU devices per process (1)
  -g SECONDS    time that the other processes have to exit after one has failed (30)
  -p PORT       port of process 0 (any free one)
  --dry-run     print the commands without running them

Each line of output starts with the index of its process: "[0] ". SIGTERM and SIGINT (Ctrl-C) are
forwarded to every process; after SIGTERM the run saves a checkpoint and exits. When a process
fails, the others notice and exit. Those that still run after SECONDS get SIGTERM, and after SECONDS
more SIGKILL. The exit status is that of the first process that failed, or 0.
HELP
}

fail() {
  echo "local.sh: $1" >&2
  exit 2
}

number() {  # NAME VALUE LEAST MOST
  if ! [[ $2 =~ ^[0-9]{1,6}$ ]] || ((10#$2 < $3 || 10#$2 > $4)); then
    fail "$1 is '$2'; it must be a number from $3 to $4"
  fi
}

free_port() {  # below the range of ephemeral ports
  local port _
  for _ in {1..100}; do
    port=$((20000 + RANDOM % 10000))
    if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
      echo "$port"
      return
    fi
  done
  fail "no free port from 20000 to 29999"
}

prefixed() {  # PREFIX; ignores the signals, to pass on the output that follows them
  trap '' INT TERM
  local line
  while IFS= read -r line || [[ -n $line ]]; do
    printf '%s%s\n' "$1" "$line"
  done
}

processes=2 devices=1 grace=30 port='' dry_run=''
while (($#)); do
  case $1 in
    -n | -d | -g | -p)
      (($# >= 2)) || fail "$1 needs a number (--help explains)"
      case $1 in
        -n) number "$1" "$2" 1 1024 && processes=$2 ;;
        -d) number "$1" "$2" 1 1024 && devices=$2 ;;
        -g) number "$1" "$2" 0 999999 && grace=$2 ;;
        -p) number "$1" "$2" 1 65535 && port=$2 ;;
      esac
      shift 2
      ;;
    --dry-run) dry_run=1 && shift ;;
    -h | --help) usage && exit ;;
    --) shift && break ;;
    *) fail "unknown argument $1; the command comes after -- (--help explains)" ;;
  esac
done
(($#)) || fail "no command; for example: local.sh -n 2 -- lm2 train --config=... --workdir=..."
[[ -n $dry_run ]] || command -v "$1" >/dev/null || fail "no command $1"
port=${port:-$(free_port)}

running=() readers=() status=0 deadline='' killing=''

forward() {  # SIGNAL [GROUP_SIGN]: sends it to every process that still runs
  local index
  for index in "${!running[@]}"; do
    kill "-$1" -- "${2:-}${running[$index]}" 2>/dev/null || true
  done
}

alive() {
  kill -0 "$1" 2>/dev/null
}

# Job control: signals of the terminal reach this script alone, and background processes do not
# start with SIGINT ignored.
set -m
trap 'forward TERM' TERM HUP
trap 'forward INT' INT
for ((index = 0; index < processes; index++)); do
  command=(env "LM2_COORDINATOR=127.0.0.1:$port" "LM2_NUM_PROCESSES=$processes"
    "LM2_PROCESS_ID=$index" JAX_PLATFORMS=cpu "JAX_NUM_CPU_DEVICES=$devices" "$@")
  if [[ -n $dry_run ]]; then
    printf -v line '%q ' "${command[@]}"
    echo "${line% }"
  else
    exec {out}> >(prefixed "[$index] ")
    readers+=("$!")
    exec {err}> >(prefixed "[$index] " >&2)
    readers+=("$!")
    "${command[@]}" </dev/null >&"$out" 2>&"$err" {out}>&- {err}>&- &
    running[index]=$!
    exec {out}>&- {err}>&-
  fi
done

while ((${#running[@]})); do
  for index in "${!running[@]}"; do
    alive "${running[$index]}" && continue
    ended=0
    wait "${running[$index]}" 2>/dev/null || ended=$?
    unset "running[$index]"
    if ((ended && !status)); then
      status=$ended deadline=$((SECONDS + grace))
      echo "local.sh: process $index ended with status $ended" >&2
    fi
  done
  if [[ -n $deadline ]] && ((${#running[@]} && SECONDS >= deadline)); then
    echo "local.sh: $grace s later process ${!running[*]} still runs; SIG${killing:-TERM}" >&2
    if [[ -n $killing ]]; then forward KILL -; else forward TERM; fi
    killing=KILL deadline=$((SECONDS + grace))
  fi
  sleep 0.1
done
# Wait for the last lines, but not for ever: a child of a process may hold the output open.
for _ in {1..20}; do
  for reader in "${readers[@]}"; do
    alive "$reader" && sleep 0.1 && continue 2
  done
  break
done
kill -KILL "${readers[@]}" 2>/dev/null || true
exit "$status"
