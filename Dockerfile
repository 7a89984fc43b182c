# The service in one process: api and worker, SQLite and a folder below /data unless the settings say otherwise.
# `vlibrary work` in place of the command makes it a worker (port 9000), `VLIBRARY_WORKERS` an api without models.
FROM python:3.11-slim
ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1
RUN useradd --create-home --uid 10001 vlibrary
WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE ./
RUN pip install --extra-index-url https://download.pytorch.org/whl/cpu torch==2.13.0
COPY service ./service
COPY migrations ./migrations
RUN pip install --constraint constraints.txt .

USER vlibrary
ENV VLIBRARY_DATA_DIR=/data VLIBRARY_HOST=0.0.0.0 VLIBRARY_LOG_JSON=true
VOLUME /data
EXPOSE 8000 9000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz')"]
CMD ["vlibrary", "serve"]
