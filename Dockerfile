# Three targets:
#   docker build --target api .      the api without models and torch; needs VLIBRARY_WORKERS
#   docker build --target worker .   one worker with its model (port 9000)
#   docker build .                   all in one process: SQLite and a folder below /data unless the settings say otherwise
FROM python:3.11-slim AS base
ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1
RUN useradd --create-home --uid 10001 vlibrary && install -d -o 10001 -g 10001 /data
WORKDIR /app
COPY pyproject.toml setup.py constraints.txt README.md LICENSE ./
COPY service ./service
COPY migrations ./migrations
# The network of the container decides who can reach it.
ENV VLIBRARY_DATA_DIR=/data VLIBRARY_HOST=0.0.0.0 VLIBRARY_ALLOW_REMOTE=true VLIBRARY_LOG_JSON=true
VOLUME /data

FROM base AS api
RUN pip install --constraint constraints.txt ".[api]"
USER 10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f'http://127.0.0.1:{os.environ.get(\"VLIBRARY_PORT\", 8000)}/readyz', timeout=4)"]
CMD ["vlibrary", "serve"]

FROM base AS torch
RUN pip install --extra-index-url https://download.pytorch.org/whl/cpu torch==2.13.0

FROM torch AS worker
RUN pip install --constraint constraints.txt ".[worker]"
USER 10001
ENV VLIBRARY_WORKER_HOST=0.0.0.0
EXPOSE 9000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f'http://127.0.0.1:{os.environ.get(\"VLIBRARY_WORKER_PORT\", 9000)}/readyz', timeout=4)"]
CMD ["vlibrary", "work"]

FROM torch AS all
RUN pip install --constraint constraints.txt ".[all]"
USER 10001
EXPOSE 8000 9000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f'http://127.0.0.1:{os.environ.get(\"VLIBRARY_PORT\", 8000)}/readyz', timeout=4)"]
CMD ["vlibrary", "serve"]
