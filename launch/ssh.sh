#!/usr/bin/env bash
# Runs lm2 on a handful of GPU hosts that are reached by SSH and have no scheduler.
set -euo pipefail

usage() {
  cat <<'HELP'
launch/ssh.sh [--dry-run] setup | start COMMAND... | watch | status | stop

  setup   copies the last commit of this checkout to every host and installs it
  start   starts COMMAND on every host, one process for all GPUs of the host
  watch   follows the output of the first host
  status  says on each host whether the run is there
  stop    saves a checkpoint and ends the run; start with the same COMMAND resumes it

--dry-run prints each command without running it. For example:

  export HOSTS="gpu1 gpu2 user@gpu3" COORDINATOR=10.0.0.1:29500
  launch/ssh.sh setup
  launch/ssh.sh start lm2 train --config=configs/lm2_1b7.py --workdir=/shared/lm2_1b7

The hosts must let each other in at the port of COORDINATOR, and mount the folder of the workdir.
SSH must need no password (an agent or a key); the run goes on when this machine leaves. Nothing
restarts it: on a failure all processes end, and start resumes from the last checkpoint, also with
fewer HOSTS.

Environment:
  HOSTS        hosts as ssh takes them, separated by spaces; the first is process 0
  COORDINATOR  HOST:PORT at which the others reach the first host (its name in HOSTS, port 29500)
  DIR          folder on each host for the code, the log and the process id (lm2_jax)
  EXTRA        what setup installs beside the package (cuda)
HELP
}

# shellcheck source-path=SCRIPTDIR
source "$(dirname "${BASH_SOURCE[0]}")/shared.sh"

on_host() {  # HOST COMMAND
  run ssh -o BatchMode=yes -o ConnectTimeout=10 "$1" "$2"
}

setup() {
  local host
  pack
  for host in "${hosts[@]}"; do
    run scp -o BatchMode=yes build/lm2_jax.tar.gz "$host:lm2_jax.tar.gz"
    on_host "$host" "$(unpack "$DIR" "$EXTRA")"
  done
}

start() {
  (($#)) || fail "no command; for example: start lm2 train --config=... --workdir=/shared/run"
  local quoted='' index
  printf -v quoted '%q ' "$@"
  for index in "${!hosts[@]}"; do
    on_host "${hosts[index]}" "cd $DIR || exit 1;\
 if [ -e lm2.pid ] && kill -0 \"\$(cat lm2.pid)\" 2>/dev/null; then\
 echo 'a run is there already (stop ends it)' >&2; exit 1; fi;\
 LM2_COORDINATOR=$COORDINATOR LM2_NUM_PROCESSES=${#hosts[@]} LM2_PROCESS_ID=$index\
 PYTHONUNBUFFERED=1 PATH=\"\$PWD/.venv/bin:\$PATH\"\
 setsid nohup ${quoted% } >>lm2.log 2>&1 </dev/null & echo \$! >lm2.pid"
  done
}

status() {
  local host
  for host in "${hosts[@]}"; do
    on_host "$host" "cd $DIR && if kill -0 \"\$(cat lm2.pid)\" 2>/dev/null; then\
 echo '$host: runs'; else echo '$host: ended'; fi; tail -n 1 lm2.log"
  done
}

stop() {  # SIGTERM to one process is one to all; every host is asked, in case the first is gone.
  local host
  for host in "${hosts[@]}"; do
    on_host "$host" "cd $DIR && if kill -TERM \"\$(cat lm2.pid)\" 2>/dev/null; then\
 while kill -0 \"\$(cat lm2.pid)\" 2>/dev/null; do sleep 1; done; fi"
  done
}

read_command "setup start watch status stop" "$@"
read -ra hosts <<<"${HOSTS:-}"
((${#hosts[@]})) || fail "HOSTS is not set (--help lists what is needed)"
DIR=${DIR:-lm2_jax} EXTRA=${EXTRA:-cuda} COORDINATOR=${COORDINATOR:-${hosts[0]#*@}:29500}
[[ $DIR =~ ^[[:alnum:]_./-]+$ ]] || fail "DIR is '$DIR'; letters, digits and _ . / - only"
[[ $COORDINATOR =~ ^[^:]+:[0-9]+$ ]] || fail "COORDINATOR is '$COORDINATOR'; it must be HOST:PORT"
cd "$(dirname "$0")/.."

case $command in
  watch) on_host "${hosts[0]}" "tail -n 100 -F $DIR/lm2.log" ;;
  *) "$command" "${arguments[@]}" ;;
esac
