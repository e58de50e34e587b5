#!/bin/bash
# Paint a synthetic set with an array of jobs, then filter it with a second array. Each job makes one shard; the job that
# finishes last puts the set together. The second array starts when all jobs of the first one have succeeded.
#
#     made=$(sbatch --parsable --array=1-8 examples/slurm_array.sh synthesize --healthy hosts -n 4000 \
#         -w tumorgen_work --out pairs)
#     sbatch --array=1-8 --dependency=afterok:$made examples/slurm_array.sh filter pairs --keep 0.7 -w tumorgen_work \
#         --out kept
#
# The words after the script's name are a command of tumorgen with its options, the same for all jobs. The script adds
# --shard. To run one shard again, give its number and the number of shards:
#
#     sbatch --array=3 --export=ALL,SHARDS=8 examples/slurm_array.sh synthesize --healthy hosts -n 4000 \
#         -w tumorgen_work --out pairs
#SBATCH --job-name=tumorgen
#SBATCH --array=1-8
#SBATCH --gres=gpu:1               # for a workspace planned on a GPU; remove it for one planned on a CPU
#SBATCH --cpus-per-task=4
#SBATCH --mem=16G
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --output=tumorgen_%A_%a.log
set -euo pipefail
exec tumorgen "$@" --shard "${SLURM_ARRAY_TASK_ID}/${SHARDS:-$SLURM_ARRAY_TASK_COUNT}"
