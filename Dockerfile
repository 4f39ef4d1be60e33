# syntax=docker/dockerfile:1
# Two images from one file: `api` has no torch; `worker` runs jobs, inspections and the scheduler.
#
#     docker build --target api -t lethe-api .
#     docker build --target worker -t lethe-worker .
#
# Every package is pinned by hash. For a small worker image without CUDA, lock an index of CPU-only torch wheels with
# `uv pip compile` as `make lock` does it, into requirements/, and name that file: --build-arg LOCK=requirements/cpu.lock

FROM python:3.11-slim AS base
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /srv/lethe

FROM base AS api-build
COPY pyproject.toml README.md LICENSE ./
COPY requirements requirements
COPY app app
COPY migrations migrations
RUN python3 -m venv .venv
RUN .venv/bin/pip install --require-hashes -r requirements/build.lock -r requirements/api.lock
RUN .venv/bin/pip install --no-deps --no-build-isolation -e .

FROM base AS worker-build
ARG LOCK=requirements/worker.lock
COPY pyproject.toml README.md LICENSE ./
COPY requirements requirements
COPY app app
COPY workers workers
RUN python3 -m venv .venv
RUN .venv/bin/pip install --require-hashes -r requirements/build.lock -r ${LOCK}
RUN .venv/bin/pip install --no-deps --no-build-isolation -e .

FROM base AS runtime
RUN useradd --system --uid 10001 --home-dir /srv/lethe --shell /usr/sbin/nologin lethe \
    && install -d -o lethe -g lethe -m 0700 /srv/lethe/var /srv/lethe/var/vault
ENV PATH=/srv/lethe/.venv/bin:$PATH LETHE_VAULT=/srv/lethe/var/vault

FROM runtime AS api
COPY --from=api-build /srv/lethe /srv/lethe
USER lethe
EXPOSE 8420
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8420/readyz', timeout=4)"]
CMD ["python", "-m", "app.server", "--host", "0.0.0.0"]

# Its sandbox needs no privilege, but a kernel with Landlock: docs/threat-model.md, "What a container needs".
FROM runtime AS worker
COPY --from=worker-build /srv/lethe /srv/lethe
USER lethe
CMD ["python", "-m", "celery", "-A", "workers.celery_app", "--quiet", "worker", "--loglevel", "INFO"]
