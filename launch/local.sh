#!/usr/bin/env bash
# One command as several processes on this machine, as it would run on several machines.
#
#   launch/local.sh [--cpu-devices K | --gpus K] [--logs DIRECTORY] N COMMAND
#
#   launch/local.sh --cpu-devices 4 2 jaxssl pretrain objectives/bert-docstrings data.store=stores/books out=runs/books
#
# --cpu-devices K   K simulated CPU devices for each process, to try things without the hardware
# --gpus K          K GPUs for each process (0 to K-1 for the first); else each sees all of them
# --logs DIRECTORY  for process-0.log, process-1.log, ... (launch-logs/DATE-TIME)
#
# One process can have all devices of a machine and needs no launcher: `jaxssl pretrain ...` alone
# takes all GPUs. The output of the first process is shown, too. A signal (Ctrl-C, SIGTERM) goes on to
# all: they save and end with 75. Where one ends otherwise than with 0 or 75, the others are ended.
#
# Exit code: of the process that failed first; else 75 if they were stopped; else 0.
set -u

usage() {
  sed -n '2,/^set/s/^# \{0,1\}//p' "$0" | sed '$d' >&2
  exit 2
}

GRACE=300 # seconds that the others have once one has ended well: the first writes the report
KILL=10   # seconds from SIGTERM to SIGKILL where one has failed

platform=() gpus='' logs=launch-logs/$(date +%Y%m%d-%H%M%S)
while [[ ${1-} == --* ]]; do
  [[ $# -ge 2 ]] || usage
  case $1 in
    --cpu-devices) platform=(JAX_PLATFORMS=cpu "JAX_NUM_CPU_DEVICES=$2") ;;
    --gpus) gpus=$2 ;;
    --logs) logs=$2 ;;
    *) usage ;;
  esac
  shift 2
done
[[ ${1-} =~ ^[1-9][0-9]*$ && $# -ge 2 && $gpus =~ ^[0-9]*$ ]] || usage
count=$1
shift
command -v "$1" > /dev/null || { echo "local.sh: no such command: $1" >&2; exit 2; }
mkdir -p "$logs" || exit 2

is_taken() { (: < "/dev/tcp/127.0.0.1/$1") 2> /dev/null; } # somebody answers there
port=$((20000 + RANDOM % 10000))
while is_taken "$port" || is_taken "$((port + 1))"; do # at the next one the processes are watched
  port=$((20000 + RANDOM % 10000))
done

early='' # a signal that comes before all are started: no more are
trap 'early=INT' INT
trap 'early=TERM' TERM HUP

set -m # each process leads a group of its own, so that Ctrl-C reaches it once, and from here
pipe=$(mktemp -u) # from the first process to the terminal and its log
mkfifo "$pipe" || exit 2
tee "$logs/process-0.log" < "$pipe" &
shown=$!
exec 3> "$pipe"
rm "$pipe"

pids=()
for ((i = 0; i < count; i++)); do
  settings=(PYTHONUNBUFFERED=1 ${platform[@]+"${platform[@]}"})
  [[ -z $gpus ]] || settings+=("JAX_LOCAL_DEVICE_IDS=$(seq -s, $((i * gpus)) $((i * gpus + gpus - 1)))")
  joined=("distributed.coordinator=127.0.0.1:$port" "distributed.num_processes=$count")
  joined+=("distributed.process_id=$i")
  [[ -z $early ]] || break
  if ((i == 0)); then
    env "${settings[@]}" "$@" "${joined[@]}" < /dev/null >&3 2>&3 3>&- &
  else
    env "${settings[@]}" "$@" "${joined[@]}" < /dev/null > "$logs/process-$i.log" 2>&1 3>&- &
  fi
  pids+=($!)
done
exec 3>&-
set +m

signal_all() { # SIGNAL PREFIX: to the processes, or with the prefix - to their groups
  for pid in ${pids[@]+"${pids[@]}"}; do
    kill -s "$1" -- "${2-}$pid" 2> /dev/null
  done
}
trap 'signal_all INT' INT
trap 'signal_all TERM' TERM HUP
[[ -z $early ]] || signal_all "$early"

code=0 deadline='' told=''
while ((${#pids[@]} > 0)); do
  for i in "${!pids[@]}"; do
    kill -0 "${pids[i]}" 2> /dev/null && continue
    wait "${pids[i]}"
    ended=$?
    kill -s KILL -- "-${pids[i]}" 2> /dev/null # what it may have left behind
    unset "pids[i]"
    [[ -n $deadline ]] || deadline=$((SECONDS + GRACE))
    if ((ended != 0 && ended != 75 && (code == 0 || code == 75))); then
      code=$ended deadline=$((SECONDS + KILL)) told=yes
      echo "local.sh: process $i ended with $ended: $logs/process-$i.log" >&2
      ((i == 0)) || tail -n 20 "$logs/process-$i.log" >&2
      signal_all TERM -
    elif ((ended == 75 && code == 0)); then
      code=75
    fi
  done
  if [[ -n $deadline ]] && ((SECONDS > deadline && ${#pids[@]} > 0)); then
    [[ -n $told ]] || echo "local.sh: ended processes ${!pids[*]}: $GRACE s after the others" >&2
    signal_all KILL -
  fi
  sleep 0.2 & # `wait` hears a signal at once, a command is waited for first
  wait "$!"
done
wait "$shown"
exit "$code"
