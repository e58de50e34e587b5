# The environment of tumorgen as a recipe, with CUDA or for CPUs alone.
#
#   docker build -t tumorgen .                                                CUDA: torch's usual Linux wheel brings its CUDA libraries
#   docker build -t tumorgen:cpu --build-arg TORCH_INDEX=URL .                CPU, 4 GB smaller; URL: the index of CPU wheels that pytorch.org names
#   docker run --rm -it --gpus all --shm-size 8g -v "$PWD:/data" tumorgen demo --quick
#
# Leave out --gpus without a GPU. nnU-Net's workers share memory, so a training needs --shm-size. Files that the container writes belong to
# root, unless --user "$(id -u):$(id -g)" is added.
ARG PYTHON=3.12
FROM python:${PYTHON}-slim

ARG TORCH_INDEX=
# a compiler is needed by torch.compile on a GPU alone, so it is left out; git and build tools are not needed
RUN if [ -n "$TORCH_INDEX" ]; then pip install --no-cache-dir torch --index-url "$TORCH_INDEX"; fi

WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY plans plans
COPY tumorgen_cli tumorgen_cli
RUN pip install --no-cache-dir . && rm -rf /src/* && tumorgen --version

# results, models and caches of a user without a home in the container
ENV HOME=/data MPLCONFIGDIR=/tmp/matplotlib
WORKDIR /data
ENTRYPOINT ["tumorgen"]
CMD ["--help"]
