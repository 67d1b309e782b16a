# shellcheck shell=bash disable=SC2034  # the variables are read by the scripts
# What gke.sh, ssh.sh and tpu_pod.sh share. Each of them needs the checkout that it is in anyway.

fail() {
  echo "${0##*/}: $1" >&2
  exit 2
}

needs() {  # VARIABLE...
  local variable
  for variable; do
    [[ -n ${!variable:-} ]] || fail "$variable is not set (--help lists what is needed)"
  done
}

read_command() {  # "COMMAND..." [ARGUMENT...]; sets dry_run, command and arguments
  local commands=$1
  shift
  dry_run=''
  if [[ ${1-} == --dry-run ]]; then
    dry_run=1
    shift
  fi
  command=${1-} arguments=("${@:2}")
  case $command in
    -h | --help | help) usage && exit ;;
    '') fail "no command; one of ${commands// /, }" ;;
  esac
  [[ " $commands " == *" $command "* ]] || fail "unknown command $command (--help lists them)"
  [[ $command == start || $command == resume ]] || ((${#arguments[@]} == 0)) ||
    fail "$command takes no ${arguments[0]}"
}

run() {  # COMMAND [ARGUMENT...]; with --dry-run it is printed
  local word line=''
  if [[ -z $dry_run ]]; then
    "$@"
    return
  fi
  for word; do
    [[ $word =~ ^[[:alnum:]_./:=@%+,-]+$ ]] || word=${word@Q}
    line+="$word "
  done
  echo "${line% }"
}

pack() {  # writes the last commit of this checkout to build/lm2_jax.tar.gz
  run mkdir -p build
  run git archive --format=tar.gz --output=build/lm2_jax.tar.gz HEAD
}

unpack() {  # FOLDER EXTRAS; the command by which a host installs it. uv brings a newer Python.
  echo "mkdir -p $1 && tar -xzf lm2_jax.tar.gz -C $1 && python3 -m pip install --quiet --user uv &&\
 python3 -m uv venv --quiet --allow-existing --python=3.12 $1/.venv &&\
 python3 -m uv pip install --quiet --python=$1/.venv/bin/python -e '$1[$2]'"
}
