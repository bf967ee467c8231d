#!/usr/bin/env bash
# One command on the nodes of a Slurm job, one process for each GPU.
#
#   sbatch launch/slurm.sh jaxssl pretrain objectives/bert-docstrings data.store=stores/books out=runs/books
#
# The command runs in the directory of `sbatch`, which all nodes must see, as they must the data and
# `out`. Change the lines below, or give their options to sbatch: sbatch --nodes=4 launch/slurm.sh ...
#
# 5 minutes before the time is over each process gets SIGTERM: the run is saved and ends with 75, and
# the job goes back to the queue and on from there, as often as it takes; so does one that lost a
# process (69). A run that is done (0), a mistake (2), a loss that was not finite (3) and a crash do
# not. Preempted jobs and those of a node that failed are queued again by Slurm itself.
# `scancel JOB` ends all of it.
#
#SBATCH --job-name=jaxssl
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@300
#SBATCH --requeue
#SBATCH --output=jaxssl-%j.log
#SBATCH --open-mode=append
#
# JAX gives each task of Slurm one GPU, that of its number on the node: as many tasks as GPUs, and no
# --gpus-per-task, which would hide the others' numbers.
set -u
if [[ $# -eq 0 ]]; then
  sed -n '2,/^#SBATCH/s/^# \{0,1\}//p' "$0" | sed '$d' >&2
  exit 2
fi

# No task is ended because another one has ended: the first writes the report when the others have
# gone. One that hangs behind is ended after ten minutes.
srun --kill-on-bad-exit=0 --wait=600 "$@" distributed.auto=true
code=$?
if [[ $code -eq 75 || $code -eq 69 ]]; then
  echo "ended with $code, to go on later: job $SLURM_JOB_ID is queued again"
  scontrol requeue "$SLURM_JOB_ID" || echo "it could not be queued; start the same command again" >&2
fi
exit "$code"
