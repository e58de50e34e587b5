#!/usr/bin/env bash
# Check and measure tumorgen's networks on a GPU, in ten minutes at most. Without a GPU it runs at toy size on the CPU.
#
#     bash examples/gpu_check.sh [OUT] [ARRAYS]
#
# OUT (default: gpu_check) gets gpu_check.json and gpu_check.html. ARRAYS is a preprocessed workspace, whose image.npy
# are read; without it, arrays are drawn. PYTHON names the Python to use (default: python).
# Needs torch, MONAI, accelerate, safetensors and pytest, and of the package's other libraries rich and lazy-loader. Both
# are pure Python. Where they cannot be installed, put them into the folder gpu_packages beside examples/:
#     pip install --target gpu_packages rich lazy-loader
# Neither SimpleITK nor nnunetv2 is needed.
set -euo pipefail
out=$(realpath -m "${1:-gpu_check}")
arrays=${2:+$(realpath "$2")}
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD:$PWD/gpu_packages${PYTHONPATH:+:$PYTHONPATH}"
exec timeout --signal=INT 600 "${PYTHON:-python}" examples/gpu_check.py "$out" ${arrays:+--arrays "$arrays"}
