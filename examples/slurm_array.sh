#!/bin/bash
# A synthetic set by many jobs: each makes a shard of the pairs, the last to finish puts the set together.
#
#     sbatch --array=1-8 examples/slurm_array.sh --healthy hosts -n 4000 -w tumorgen_work
#
# The options after the script's name are those of `tumorgen synthesize`, the same for all. A job that was killed is run
# again by its number, with the number of shards it was one of: sbatch --array=3 --export=ALL,SHARDS=8 examples/slurm_array.sh ...
#SBATCH --job-name=tumorgen
#SBATCH --array=1-8
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=4
#SBATCH --mem=16G
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --output=tumorgen_%A_%a.log
set -euo pipefail
exec tumorgen synthesize --shard "${SLURM_ARRAY_TASK_ID}/${SHARDS:-$SLURM_ARRAY_TASK_COUNT}" "$@"
