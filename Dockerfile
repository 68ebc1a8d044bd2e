# On a CPU:   docker build -t mmsa-ext .
# With CUDA:  docker build -t mmsa-ext --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu128 .
#
#   docker run --rm -v "$PWD/data:/data" --user "$(id -u):$(id -g)" mmsa-ext \
#       run dashfusion mosi --synthetic --set pretrained=minilm        # --gpus all for CUDA
FROM python:3.11-slim

# PyTorch's own index: the package index's wheels for Linux always bring CUDA.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

# Data, results and caches are in one volume: MMSA's folders are below the home folder.
RUN useradd --uid 1000 --home-dir /data --create-home mmsa

WORKDIR /src
COPY constraints.txt ./
RUN pip install --no-cache-dir --extra-index-url "$TORCH_INDEX" --constraint constraints.txt torch
COPY pyproject.toml setup.py README.md LICENSE ./
COPY configs configs
COPY MMSA_ext MMSA_ext
RUN pip install --no-cache-dir --constraint constraints.txt ".[offline]"

USER 1000
ENV HOME=/data MMSA_DATA_ROOT=/data
WORKDIR /data
VOLUME /data

ENTRYPOINT ["mmsa-ext"]
CMD ["--help"]
