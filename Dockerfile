# Three targets:
#   docker build --target api .      the api without models and torch; needs VLIBRARY_WORKERS
#   docker build --target worker .   one worker with its model (port 9000)
#   docker build .                   all in one process: SQLite and a folder below /data unless the settings say otherwise
FROM python:3.11-slim AS base
ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1
RUN useradd --create-home --uid 10001 vlibrary
WORKDIR /app
COPY pyproject.toml setup.py constraints.txt README.md LICENSE ./
COPY service ./service
COPY migrations ./migrations
ENV VLIBRARY_DATA_DIR=/data VLIBRARY_HOST=0.0.0.0 VLIBRARY_LOG_JSON=true
VOLUME /data

FROM base AS api
RUN pip install --constraint constraints.txt ".[api]"
USER vlibrary
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz')"]
CMD ["vlibrary", "serve"]

FROM base AS torch
RUN pip install --extra-index-url https://download.pytorch.org/whl/cpu torch==2.13.0

FROM torch AS worker
RUN pip install --constraint constraints.txt ".[worker]"
USER vlibrary
ENV VLIBRARY_WORKER_HOST=0.0.0.0
EXPOSE 9000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9000/readyz')"]
CMD ["vlibrary", "work"]

FROM torch AS all
RUN pip install --constraint constraints.txt ".[all]"
USER vlibrary
EXPOSE 8000 9000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz')"]
CMD ["vlibrary", "serve"]
