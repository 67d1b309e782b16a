#!/usr/bin/env bash
# Runs lm2 on all hosts of a TPU slice of Cloud TPU VMs.
set -euo pipefail

usage() {
  cat <<'HELP'
launch/tpu_pod.sh [--dry-run] create | setup | start COMMAND... | watch | status | stop |
                              resume COMMAND... | delete

  create   requests the slice (a queued resource) and waits until it is active
  setup    mounts SHARE, copies the last commit of this checkout to every host and installs it
  start    starts COMMAND on every host, as the systemd unit `lm2`
  watch    follows the output of host 0
  status   shows the state of the slice, and of the run on every host
  stop     saves a checkpoint and ends the run; start with the same COMMAND resumes it
  resume   after a preemption: deletes the old slice, then create, setup, start
  delete   releases the slice (and stops its costs); the workdir is not deleted

--dry-run prints each command without running it. For example:

  export NAME=lm2 PROJECT=my-project ZONE=us-west4-a TYPE=v5litepod-16 \
         VERSION=v2-alpha-tpuv5-lite SHARE=10.0.0.2:/lm2 SPOT=1
  launch/tpu_pod.sh create && launch/tpu_pod.sh setup
  launch/tpu_pod.sh start lm2 train --config=configs/lm2_1b7.py --workdir=/mnt/lm2/lm2_1b7

Environment:
  NAME     name of the slice                PROJECT, ZONE   its location
  TYPE     for example v5litepod-16         SPOT=1          cheaper; can be preempted at any time
  SLICES   number of such slices (1), which train as one run
  UNTIL    drop the request if it is not served within this time, as 6h
  VERSION  runtime version of the hosts: v2-alpha-tpuv5-lite (v5e), v2-alpha-tpuv5 (v5p),
           v2-alpha-tpuv6e (v6e), tpu-ubuntu2204-base (v4)
  SHARE    HOST:/PATH of an NFS share (Filestore) that setup mounts at /mnt/lm2, for a workdir
           there. A workdir in a bucket (gs://BUCKET/run) needs none.
  POLL     seconds between two checks while waiting (30)
HELP
}

# shellcheck source-path=SCRIPTDIR
source "$(dirname "${BASH_SOURCE[0]}")/shared.sh"

resource() {  # VERB [ARGUMENT...]
  run gcloud compute tpus queued-resources "$1" "$NAME" "${place[@]}" "${@:2}"
}

on_hosts() {  # all|INDEX COMMAND; an index is that of a host of the first slice
  local node
  for node in "${nodes[@]}"; do
    run gcloud compute tpus tpu-vm ssh "$node" "${place[@]}" "--worker=$1" "--command=$2"
    [[ $1 == all ]] || break
  done
}

state() {
  resource describe '--format=value(state.state)'
}

create() {
  needs TYPE VERSION
  local options=("--node-id=$NAME") now
  ((SLICES == 1)) || options=("--node-count=$SLICES" "--node-prefix=$NAME")
  [[ -z ${SPOT:-} ]] || options+=(--spot)
  [[ -z ${UNTIL:-} ]] || options+=("--valid-until-duration=$UNTIL")
  resource create "--accelerator-type=$TYPE" "--runtime-version=$VERSION" "${options[@]}"
  if [[ -n $dry_run ]]; then
    state
    return
  fi
  local unknown=0
  until now=$(state) && [[ $now == ACTIVE ]]; do
    case $now in
      FAILED | SUSPEND*) fail "$NAME is $now (gcloud's describe says why)" ;;
      '') ((++unknown < 10)) || fail "gcloud does not say how $NAME is (see above)" ;;
      *) unknown=0 ;;
    esac
    echo "$NAME: ${now:-not known}; waiting"
    sleep "${POLL:-30}"
  done
}

setup() {
  local node
  [[ -z ${SHARE:-} ]] || on_hosts all "mountpoint -q /mnt/lm2 || { sudo apt-get -qq update &&\
 sudo apt-get -qq install -y nfs-common && sudo mkdir -p /mnt/lm2 &&\
 sudo mount -t nfs ${SHARE@Q} /mnt/lm2 && sudo chmod a+rwx /mnt/lm2; }"
  pack
  for node in "${nodes[@]}"; do
    run gcloud compute tpus tpu-vm scp build/lm2_jax.tar.gz "$node:lm2_jax.tar.gz" \
      "${place[@]}" --worker=all
  done
  on_hosts all "$(unpack ./lm2_jax tpu,gcs)"
}

start() {
  (($#)) || fail "no command; for example: start lm2 train --config=... --workdir=/mnt/lm2/run"
  local quoted=''
  printf -v quoted '%q ' "$@"
  # A systemd unit: only one can run, and it gets SIGTERM when the host shuts down, before the
  # network and the share are stopped.
  # shellcheck disable=SC2016  # the hosts expand these variables
  on_hosts all 'sudo systemd-run --unit=lm2 --collect --uid="$(id -u)" --gid="$(id -g)"'\
' --working-directory="$HOME/lm2_jax" --setenv=HOME="$HOME"'\
' --setenv=PATH="$HOME/lm2_jax/.venv/bin:$PATH" --setenv=LM2_DISTRIBUTED=1'\
' --setenv=PYTHONUNBUFFERED=1 --property=KillMode=mixed --property=TimeoutStopSec=600'\
" --property=LimitMEMLOCK=infinity --property=LimitNOFILE=1048576\
 --property=After=network-online.target --property=RequiresMountsFor=/mnt/lm2 /usr/bin/env ${quoted% }"
}

resume() {
  (($#)) || fail "no command; resume takes the one that start had"
  needs TYPE VERSION
  if [[ -z $dry_run && $(state) == ACTIVE ]]; then
    fail "$NAME is still there; start goes on from the last checkpoint"
  fi
  [[ -z $dry_run ]] || state
  resource delete --force --quiet
  create
  setup
  start "$@"
}

read_command "create setup start watch status stop resume delete" "$@"
needs NAME PROJECT ZONE
place=("--project=$PROJECT" "--zone=$ZONE")
SLICES=${SLICES:-1} nodes=("$NAME")
[[ $SLICES =~ ^[1-9][0-9]*$ ]] || fail "SLICES is '$SLICES'; it must be a number"
if ((SLICES > 1)); then
  nodes=()
  for ((i = 0; i < SLICES; i++)); do
    nodes+=("$NAME-$i")
  done
fi
[[ -n $dry_run ]] || command -v gcloud >/dev/null || fail "no command gcloud (Google Cloud CLI)"
cd "$(dirname "$0")/.."

case $command in
  watch) on_hosts 0 "sudo journalctl --unit=lm2 --output=cat --lines=100 --follow" ;;
  status) state && on_hosts all "systemctl is-active lm2 || true" ;;
  stop) on_hosts all "! systemctl is-active --quiet lm2 || sudo systemctl stop lm2" ;;
  delete) resource delete --force --quiet ;;
  *) "$command" "${arguments[@]}" ;;
esac
