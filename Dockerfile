# The page and the service on a CPU: docker build --tag face-mask-gender-age .
# The models are mounted, not copied: see docs/deployment.md.

FROM python:3.11-slim AS build
# --extra-index-url finds torch's CPU wheels, which lack the gigabytes of CUDA.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN python -m venv /opt/venv
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/venv/bin/pip install --disable-pip-version-check --index-url "$TORCH_INDEX" torch torchvision \
    && /opt/venv/bin/pip install --disable-pip-version-check '.[serve,export]'

FROM python:3.11-slim
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin app
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    XDG_CACHE_HOME=/tmp/cache \
    MPLCONFIGDIR=/tmp/matplotlib
USER 10001:10001
WORKDIR /models
EXPOSE 8000
# Loading the models takes seconds; a service that is full still answers here.
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["python", "-m", "combine"]
CMD ["--mask", "m.pt", "--gender", "g.pt", "--age", "a.pt", "--serve", "0.0.0.0:8000"]
