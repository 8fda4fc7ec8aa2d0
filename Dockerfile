# Two stages of one image: `docker build --target cpu -t notbugs .` and `--target cuda`.
# The project is mounted, so that data, models and runs stay outside:
#     docker run --rm -v "$PWD":/project notbugs repro
#     docker run --rm --gpus all -v "$PWD":/project notbugs:cuda repro
FROM python:3.13-slim AS cpu
# DVC asks Git for the repository; Git must not mind that the mounted folder is somebody else's.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git make \
    && rm -rf /var/lib/apt/lists/* \
    && git config --system --add safe.directory '*'
WORKDIR /opt/notbugs
COPY requirements.lock ./
RUN pip install --no-cache-dir --disable-pip-version-check -r requirements.lock
COPY . .
RUN pip install --no-cache-dir --disable-pip-version-check --no-deps .
ENV PYTHONUTF8=1 MLFLOW_DISABLE_TELEMETRY=true DVC_NO_ANALYTICS=1
WORKDIR /project
ENTRYPOINT ["notbugs"]
CMD ["--help"]

# The wheels of torch bring CUDA's libraries with them; the driver is the host's (NVIDIA Container Toolkit).
FROM cpu AS cuda
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
