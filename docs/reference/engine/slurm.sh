#!/bin/bash
#SBATCH --job-name=genie
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=16
#SBATCH --mem=64G
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=genie-%j.log

# Rendering on all GPUs of a SLURM job: `sbatch docs/reference/engine/slurm.sh` in the checkout. The
# first node is the driver. The checkout and .venv must be at the same path on all nodes, or set
# GENIE_VENV to an environment that each node has; the nodes need no other common file.

set -euo pipefail

# shellcheck source=/dev/null
source "${GENIE_VENV:-$SLURM_SUBMIT_DIR/.venv}/bin/activate"
cd "$SLURM_SUBMIT_DIR"

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
others=$((SLURM_JOB_NUM_NODES - 1))
address=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address | awk '{print $1}')
port=$((20000 + SLURM_JOB_ID % 20000)) # jobs that share a node need different ports
cpus=$SLURM_CPUS_PER_TASK
gpus=$SLURM_GPUS_PER_NODE

export RAY_USAGE_STATS_ENABLED=0 DVC_NO_ANALYTICS=1
export GENIE_ENGINE=ray GENIE_RAY_ADDRESS=$address:$port

# Ray runs in the foreground of srun, so it ends with the job. --overlap lets the driver run beside it.
srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" --gpus-per-node="$gpus" \
    ray start --head --node-ip-address="$address" --port="$port" \
    --num-cpus="$cpus" --num-gpus="$gpus" --include-dashboard=false --block &

# The driver starts when Ray answers, at most five minutes later.
for _ in $(seq 60); do
    ray status --address "$address:$port" > /dev/null 2>&1 && break
    sleep 5
done

if ((others > 0)); then
    srun --overlap --nodes="$others" --ntasks="$others" --exclude="$head" --gpus-per-node="$gpus" \
        ray start --address="$address:$port" --num-cpus="$cpus" --num-gpus="$gpus" --block &
    # workers are counted when the driver starts, so wait until all GPUs have joined
    python - <<'END'
import os
import time

import ray

ray.init(os.environ["GENIE_RAY_ADDRESS"], log_to_driver=False)
wanted = int(os.environ["SLURM_JOB_NUM_NODES"]) * int(os.environ["SLURM_GPUS_PER_NODE"])
until = time.monotonic() + 600
while ray.cluster_resources().get("GPU", 0) < wanted and time.monotonic() < until:
    time.sleep(5)
print("GPUs that have joined:", ray.cluster_resources().get("GPU", 0), "of", wanted)
END
fi

# Before the time limit SLURM sends TERM to this script. It ends the stage, which stores the images
# that have arrived, and puts the job back into the queue.
dvc repro &
driver=$!
# shellcheck disable=SC2329
stop() {
    kill -TERM "$driver"
    wait "$driver" || true
    scontrol requeue "$SLURM_JOB_ID"
}
trap stop TERM
status=0
wait "$driver" || status=$?
exit "$status"
