# The book in a container, for a processor (default) or for NVIDIA's cards:
#   docker build --target cpu --tag uq-book .
# (smaller with --build-arg PIP_ARGS="--extra-index-url <address>", of torch for processors: README)
#   docker build --target cuda --tag uq-book:cuda .
# JupyterLab: docker run --rm --publish 8888:8888 uq-book
# The pages:  docker run --rm --volume "$PWD/build:/book/build" uq-book make book
FROM python:3.11-slim-bookworm AS base
RUN apt-get update && apt-get install --yes --no-install-recommends make \
    && rm -rf /var/lib/apt/lists/* && useradd --create-home --uid 1000 reader \
    && install --directory --owner=reader /book
USER reader
WORKDIR /book
ENV PYTHONUNBUFFERED=1
COPY --chown=reader Makefile pyproject.toml requirements.lock README.md LICENSE ./
COPY --chown=reader uqlib uqlib

FROM base AS cuda
RUN make .venv/ready && .venv/bin/python -m pip install --no-cache-dir \
    --constraint requirements.lock --editable ".[gpu]"
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --chown=reader . .
EXPOSE 8888
CMD [".venv/bin/jupyter", "lab", "--ip=0.0.0.0", "--no-browser", "--notebook-dir=notebooks"]

FROM base AS cpu
ARG PIP_ARGS=""
RUN make .venv/ready PIP_ARGS="$PIP_ARGS"
COPY --chown=reader . .
EXPOSE 8888
CMD [".venv/bin/jupyter", "lab", "--ip=0.0.0.0", "--no-browser", "--notebook-dir=notebooks"]
