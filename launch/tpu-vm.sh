#!/usr/bin/env bash
# One command on every host of a Cloud TPU VM.
#
#   launch/tpu-vm.sh NAME ZONE DIRECTORY COMMAND
#
#   launch/tpu-vm.sh my-pod us-east5-b /mnt/runs jaxssl pretrain objectives/bert-docstrings data.store=stores/books out=runs/books
#
# Before, once, with a directory that all hosts see (a Filestore share, say) mounted as /mnt/runs:
#
#   gcloud compute tpus tpu-vm create my-pod --zone=us-east5-b --accelerator-type=v5p-32 --version=v2-alpha-tpuv5
#   gcloud compute tpus tpu-vm scp --recurse --worker=0 --zone=us-east5-b . my-pod:/mnt/runs/jaxssl
#   gcloud compute tpus tpu-vm ssh my-pod --zone=us-east5-b --worker=0 \
#     --command="python3 -m venv /mnt/runs/.venv && /mnt/runs/.venv/bin/pip install '/mnt/runs/jaxssl[tpu]'"
#
# The command runs in DIRECTORY, with DIRECTORY/.venv/bin first on PATH. It goes on if the connection
# breaks: the same line again shows it again. The output of each host is in DIRECTORY/HOST.log. To stop
# it, saving:
#
#   gcloud compute tpus tpu-vm ssh my-pod --zone=us-east5-b --worker=all --command="pkill -TERM -x jaxssl"
#
# Exit code: that of a host whose command did not end with 0. 75 is saved and stopped: run this again.
set -u
if [[ $# -lt 4 ]]; then
  sed -n '2,/^set/s/^# \{0,1\}//p' "$0" | sed '$d' >&2
  exit 2
fi
name=$1 zone=$2 directory=$3
shift 3

place=$(printf '%q' "$directory")
program=$(printf '%q ' "$@" distributed.auto=true)
read -r -d '' remote << END
cd $place || exit 2
export PATH=$place/.venv/bin:\$PATH
host=\$(hostname)
if kill -0 "\$(cat "\$host.pid" 2> /dev/null)" 2> /dev/null; then
  echo "\$host: it is still running"
else
  rm -f "\$host.code"
  : > "\$host.log" # before it is looked at
  nohup bash -c '"\$@"; echo \$? > "\$0"' "\$host.code" $program >> "\$host.log" 2>&1 < /dev/null &
  echo \$! > "\$host.pid"
fi
tail --pid="\$(cat "\$host.pid")" -n +1 -f "\$host.log"
exit "\$(cat "\$host.code")"
END
exec gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="$remote"
