#!/bin/bash
# A synthetic set by many jobs, then those of its pairs that a judge agrees with by many: each job makes a shard, the last to finish
# puts the set together. The second array waits for the whole first one.
#
#     made=$(sbatch --parsable --array=1-8 examples/slurm_array.sh synthesize --healthy hosts -n 4000 -w tumorgen_work --out pairs)
#     sbatch --array=1-8 --dependency=afterok:$made examples/slurm_array.sh filter pairs --keep 0.7 -w tumorgen_work --out kept
#
# The words after the script's name are those of `tumorgen`, the same for all jobs. A job that was killed is run again by its
# number, with the number of shards it was one of: sbatch --array=3 --export=ALL,SHARDS=8 examples/slurm_array.sh synthesize ...
#SBATCH --job-name=tumorgen
#SBATCH --array=1-8
#SBATCH --gres=gpu:1               # for a workspace planned on a GPU; networks planned on a CPU gain little
#SBATCH --cpus-per-task=4
#SBATCH --mem=16G
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --output=tumorgen_%A_%a.log
set -euo pipefail
exec tumorgen "$@" --shard "${SLURM_ARRAY_TASK_ID}/${SHARDS:-$SLURM_ARRAY_TASK_COUNT}"
