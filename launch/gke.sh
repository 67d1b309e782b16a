#!/usr/bin/env bash
# Runs lm2 on TPU slices of a GKE cluster: fills in gke.yaml and passes it to kubectl.
set -euo pipefail

usage() {
  cat <<'HELP'
launch/gke.sh [--dry-run] start COMMAND... | watch | status | stop

  start   creates the JobSet of gke.yaml, which runs COMMAND on every host of every slice
  watch   follows the output of host 0 of slice 0
  status  shows the JobSet and its pods
  stop    saves a checkpoint, ends the run and deletes the JobSet; start with the same COMMAND
          resumes the run

--dry-run prints the JobSet and each command without running anything. Pipe the output of
`--dry-run start` into `kubectl create --dry-run=server -f -` to validate it in the cluster.
For example:

  export NAME=lm2-1b7 IMAGE=us-docker.pkg.dev/my-project/lm2/lm2 CLAIM=lm2-runs
  launch/gke.sh start lm2 train --config=configs/lm2_1b7.py --workdir=/runs/lm2_1b7

Environment:
  NAME         name of the JobSet: lower-case letters, digits and -
  IMAGE        container image, built from launch/Dockerfile with EXTRA=tpu
  CLAIM        a ReadWriteMany PersistentVolumeClaim that is mounted at /runs, for a workdir there.
               A workdir in a bucket (gs://BUCKET/run) needs none
  ACCELERATOR  label of the nodes (tpu-v5-lite-podslice)
  TOPOLOGY     topology of the slice (4x4)
  CHIPS        TPU chips per host (4); the number of hosts follows from the topology
  SLICES       number of such slices (1). If one is lost for long: stop, then start with fewer
  SPOT=1       take spot nodes
  QUEUE        local queue of Kueue (multislice-queue, which xpk makes)
  NAMESPACE    namespace in the cluster (default)
HELP
}

# shellcheck source-path=SCRIPTDIR
source "$(dirname "${BASH_SOURCE[0]}")/shared.sh"

rendered() {
  # shellcheck disable=SC2034  # HOSTS is read by name in the loop below
  local text word variable COMMAND='' HOSTS=$((${TOPOLOGY//x/*} / CHIPS))
  for word; do
    word=${word//\\/\\\\}
    COMMAND+=", \"${word//\"/\\\"}\""
  done
  COMMAND="[${COMMAND:2}]"
  text=$(<"$(dirname "$0")/gke.yaml")
  [[ -z ${SPOT:-} ]] || text=${text//\# spot: /}
  [[ -z $CLAIM ]] || text=${text//\# claim: /}
  for variable in NAME IMAGE CLAIM ACCELERATOR TOPOLOGY CHIPS HOSTS SLICES QUEUE COMMAND; do
    text=${text//"\${$variable}"/"${!variable}"}
  done
  printf '%s\n' "$text"
}

start() {
  (($#)) || fail "no command; for example: start lm2 train --config=... --workdir=/runs/name"
  needs IMAGE
  [[ " $*" =~ \ --workdir[=\ ](gs|s3):// ]] || needs CLAIM
  [[ $TOPOLOGY =~ ^[1-9][0-9]*(x[1-9][0-9]*){1,2}$ ]] || fail "TOPOLOGY is '$TOPOLOGY'; like 4x4"
  [[ $CHIPS =~ ^[1-9][0-9]*$ ]] || fail "CHIPS is '$CHIPS'; it must be a number"
  [[ $SLICES =~ ^[1-9][0-9]*$ ]] || fail "SLICES is '$SLICES'; it must be a number"
  [[ $QUEUE =~ ^[a-z0-9]([-a-z0-9]*[a-z0-9])?$ ]] || fail "QUEUE is '$QUEUE'; the name of a queue"
  ((${TOPOLOGY//x/*} % CHIPS == 0)) || fail "TOPOLOGY $TOPOLOGY is no multiple of CHIPS $CHIPS"
  [[ "$*" != *[[:cntrl:]]* ]] || fail "the command has a line break or another control character"
  if [[ -n $dry_run ]]; then
    rendered "$@"
    echo "# is the input of: $(run "${kubectl[@]}" create -f -)"
  else
    rendered "$@" | run "${kubectl[@]}" create -f -
  fi
}

read_command "start watch status stop" "$@"
needs NAME
[[ $NAME =~ ^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$ ]] ||
  fail "NAME is '$NAME'; up to 40 lower-case letters, digits and -, a letter first"
ACCELERATOR=${ACCELERATOR:-tpu-v5-lite-podslice} TOPOLOGY=${TOPOLOGY:-4x4} CHIPS=${CHIPS:-4}
SLICES=${SLICES:-1} QUEUE=${QUEUE:-multislice-queue} CLAIM=${CLAIM:-}
kubectl=(kubectl "--namespace=${NAMESPACE:-default}")
[[ -n $dry_run ]] || command -v kubectl >/dev/null || fail "no command kubectl"

pods="--selector=jobset.sigs.k8s.io/jobset-name=$NAME"
case $command in
  start) start "${arguments[@]}" ;;
  watch)
    run "${kubectl[@]}" logs --container=lm2 --tail=100 --follow \
      "$pods,batch.kubernetes.io/job-completion-index=0,jobset.sigs.k8s.io/job-index=0"
    ;;
  status)
    run "${kubectl[@]}" get jobset "$NAME"
    run "${kubectl[@]}" get pods --output=wide "$pods"
    ;;
  stop) run "${kubectl[@]}" delete jobset "$NAME" --cascade=foreground ;;
esac
