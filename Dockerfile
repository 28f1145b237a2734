# Train and write in a container; the data and the runs stay outside:
#
#   docker build -t llm-from-scratch .
#   docker run --rm -v "$PWD/data:/app/data" -v "$PWD/outputs:/app/outputs" llm-from-scratch model=tiny data=oz
#   docker run --rm -v "$PWD/outputs:/app/outputs" --entrypoint python llm-from-scratch generate.py run=last prompt="Dorothy"
#
# Serve a run, behind a token (docs/serving.md):
#
#   docker build --target serve -t llm-from-scratch-serve .
#   docker run --rm -p 8000:8000 -v "$PWD/outputs:/app/outputs" -v "$PWD/token:/run/token:ro" llm-from-scratch-serve last
#
# CPU: the base below. --build-arg PIP_EXTRA_INDEX_URL=… with PyTorch's own index of CPU builds keeps gigabytes of CUDA out.
# CUDA: docker build --build-arg BASE=nvidia/cuda:13.0.2-base-ubuntu24.04 …, and docker run --gpus all --shm-size 1g …
#       (torch brings its CUDA libraries along; the host gives the driver).
# The folders that are mounted must be writable for the container's user: add --user "$(id -u):$(id -g)" where it is not yours.
ARG BASE=python:3.12-slim
FROM ${BASE} AS program

# g++ and Python's headers: torch.compile builds its kernels at run time.
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ $(command -v python3 > /dev/null || echo python3-venv python3-dev) \
    && rm -rf /var/lib/apt/lists/*

RUN python3 -m venv /opt/venv && useradd --create-home llm && install -d -o llm /app
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 HOME=/tmp
WORKDIR /app

# The packages come first: a change of the code does not install them again.
ARG PIP_EXTRA_INDEX_URL=
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src/llm_from_scratch/__init__.py src/llm_from_scratch/
RUN pip install --no-cache-dir -c constraints.txt -e .
COPY --chown=llm . .
RUN install -d -o llm data outputs

FROM program AS serve
RUN pip install --no-cache-dir -c constraints.txt -e '.[serve]'
USER llm
EXPOSE 8000
ENTRYPOINT ["llm-from-scratch", "serve", "--host", "0.0.0.0", "--token-file", "/run/token"]

# The last one is what is built without --target.
FROM program AS train
USER llm
ENTRYPOINT ["python", "train.py"]
