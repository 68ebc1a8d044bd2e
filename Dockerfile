#   docker build -t mmsa-ext .
#
# The package index's PyTorch for Linux brings CUDA, some gigabytes. For a CPU alone give PyTorch's own
# index of wheels without it (its address is on pytorch.org, "Get started"):
#   docker build -t mmsa-ext --build-arg TORCH_INDEX=ADDRESS .
#
#   docker run --rm -v "$PWD/data:/data" --user "$(id -u):$(id -g)" mmsa-ext \
#       run dashfusion mosi --synthetic --set pretrained=minilm        # --gpus all for CUDA
FROM python:3.11-slim

ARG TORCH_INDEX=

# Data, results and caches are in one volume: MMSA's folders are below the home folder.
RUN useradd --uid 1000 --home-dir /data --create-home mmsa

WORKDIR /src
COPY constraints.txt ./
RUN pip install --no-cache-dir ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} --constraint constraints.txt torch
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
