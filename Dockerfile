# The HTTP server. This image has not been built: the development machine has no container engine.
#   CPU:  docker build -t video-llama .
#   CUDA: docker build --build-arg BASE=nvidia/cuda:12.8.1-runtime-ubuntu24.04 \
#             --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu128 -t video-llama:cuda .
#   run:  docker run --rm -p 8000:8000 -e VIDEO_LLAMA_API_KEY=... [--gpus all] [-v DIR:/model:ro] video-llama [--model /model]
ARG BASE=python:3.12-slim
FROM ${BASE}
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

# The CUDA base image has no Python. The Python base image has its own, which comes first in PATH.
RUN command -v python3 && python3 -m venv --help >/dev/null 2>&1 && python3 -c 'import ensurepip' \
    || (apt-get update && apt-get install -y --no-install-recommends python3 python3-venv && rm -rf /var/lib/apt/lists/*)
RUN python3 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1

WORKDIR /src
COPY . .
# Install torch from the index with the build for this base image, then the rest from PyPI, at the tested versions.
RUN pip install --no-cache-dir -c constraints.txt --index-url ${TORCH_INDEX} --extra-index-url https://pypi.org/simple torch \
    && pip install --no-cache-dir -c constraints.txt '.[serve]'

RUN useradd --create-home --uid 10001 server
USER server
WORKDIR /home/server
EXPOSE 8000
HEALTHCHECK --start-period=120s CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/health', timeout=5)"]
# Exec form: SIGTERM reaches the server, which completes running answers.
ENTRYPOINT ["video-llama", "serve", "--host", "0.0.0.0"]
