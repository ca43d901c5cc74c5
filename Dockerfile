# Two images: `operator` (slim, reconciles FineTuneJobs) and `trainer` (every pod of a job).
#
#   buildah bud --target operator -t registry.example.com/finetune-operator:0.1.0 .
#   buildah bud --target trainer  -t registry.example.com/finetune-trainer:0.1.0 .
#
# A package index of your own, or a certificate authority, is lent to the build and stays out of the image: `--secret
# id=pip,src=pip.conf`, `--secret id=ca,src=ca.crt` with `cert = /run/secrets/ca` in that pip.conf.

# Any Debian- or Ubuntu-like image that has Python 3.11 or newer with its venv module.
ARG BASE=python:3.11-slim-bookworm
# PyPI's torch brings the CUDA libraries. A base with nvcc lets DeepSpeed's CUDA ops be built too; one without also works.
ARG CUDA_BASE=nvidia/cuda:13.0.1-devel-ubuntu24.04


FROM ${BASE} AS operator-environment
RUN python3 -m venv /build && python3 -m venv --without-pip /opt/finetune
COPY requirements/operator.txt /requirements.txt
RUN --mount=type=secret,id=pip --mount=type=secret,id=ca \
    PIP_CONFIG_FILE=/run/secrets/pip /build/bin/pip --python /opt/finetune/bin/python install --disable-pip-version-check --no-cache-dir \
    --no-deps --require-hashes -r /requirements.txt
COPY operator /opt/finetune/app
RUN /opt/finetune/bin/python -m compileall -q /opt/finetune/app
# What is in it, as SPDX: Python's packages, and the base's of Debian, which are the next stage's too.
COPY release/__init__.py release/licences.py release/sbom.py /sbom/release/
RUN PYTHONPATH=/sbom /opt/finetune/bin/python -m release.sbom finetune-operator 0.1.0 /opt/finetune/sbom.spdx.json


FROM ${BASE} AS operator
COPY --from=operator-environment /opt/finetune /opt/finetune
# Nothing is written: the root file system may be read-only.
ENV PATH=/opt/finetune/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONPATH=/opt/finetune/app \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    LANG=C.UTF-8 \
    HOME=/tmp
USER 65532:65532
WORKDIR /
EXPOSE 8080
ENTRYPOINT ["python", "-m", "finetune_operator"]


FROM ${BASE} AS wheel
RUN python3 -m venv /build
COPY requirements/build.txt /requirements.txt
RUN --mount=type=secret,id=pip --mount=type=secret,id=ca \
    PIP_CONFIG_FILE=/run/secrets/pip /build/bin/pip install --disable-pip-version-check --no-cache-dir --no-deps --require-hashes -r /requirements.txt
COPY pyproject.toml README.md LICENSE /source/
COPY operator /source/operator
COPY trainer /source/trainer
COPY examples /source/examples
COPY manifests/samples /source/manifests/samples
RUN cd /source && /build/bin/python -m hatchling build -t wheel -d /wheels


FROM ${CUDA_BASE} AS trainer
# g++ and Python's headers: DeepSpeed asks for a compiler even when its ops are built. libibverbs and librdmacm: NCCL over RDMA.
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
    ca-certificates g++ ibverbs-providers libibverbs1 librdmacm1 python3 python3-dev python3-venv \
 && apt-get clean && rm -rf /var/lib/apt/lists/*
# Ray and torch ask who runs them, so the user has a name; one that a platform assigns has none, and USER and LOGNAME instead. Such a user
# has group 0, which may do here what the user may; one of another group copies what it has to write to.
RUN getent group 1000 >/dev/null || groupadd --gid 1000 finetune; \
    getent passwd 1000 >/dev/null || useradd --uid 1000 --gid 1000 --no-create-home --home-dir /home/finetune finetune; \
    install -d -o 1000 -g 0 -m 775 /home/finetune /opt/torch_extensions
RUN python3 -m venv /opt/finetune
ENV PATH=/opt/finetune/bin:/usr/local/nvidia/bin:/usr/local/cuda/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    TORCH_EXTENSIONS_DIR=/opt/torch_extensions \
    PYTHONUNBUFFERED=1 \
    LANG=C.UTF-8 \
    RAY_USAGE_STATS_ENABLED=0 \
    HF_HUB_DISABLE_TELEMETRY=1 \
    HOME=/home/finetune
COPY requirements/trainer.txt /opt/finetune/requirements.txt
RUN --mount=type=secret,id=pip --mount=type=secret,id=ca \
    PIP_CONFIG_FILE=/run/secrets/pip pip install --disable-pip-version-check --no-cache-dir \
    --no-deps --require-hashes -r /opt/finetune/requirements.txt
# With a toolkit: DeepSpeed once more, with its fused Adam for the GPUs below. Our engine takes torch's AdamW and needs none of it.
ARG CUDA_ARCHITECTURES="8.0;8.6;8.9;9.0;10.0;12.0+PTX"
RUN --mount=type=secret,id=pip --mount=type=secret,id=ca \
    if command -v nvcc >/dev/null; then \
      sed -n '/^deepspeed==/,/[^\\]$/p' /opt/finetune/requirements.txt > /tmp/deepspeed.txt \
      && PIP_CONFIG_FILE=/run/secrets/pip DS_ACCELERATOR=cuda DS_BUILD_FUSED_ADAM=1 TORCH_CUDA_ARCH_LIST="${CUDA_ARCHITECTURES}" \
         pip install --disable-pip-version-check --no-cache-dir --no-build-isolation --no-deps --force-reinstall --require-hashes -r /tmp/deepspeed.txt \
      && rm /tmp/deepspeed.txt; \
    else echo "no nvcc: DeepSpeed's CUDA ops are not built"; fi
USER 1000:1000
# The op that DeepSpeed uses without GPUs; otherwise each pod would compile it for a minute and a half.
RUN DS_ACCELERATOR=cpu python -c "from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder; ShareMemCommBuilder().load()"
USER 0:0
# Torch takes a lock beside a compiled op before it loads it.
RUN chgrp -R 0 /home/finetune /opt/torch_extensions && chmod -R g=u /home/finetune /opt/torch_extensions
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    pip install --disable-pip-version-check --no-cache-dir --no-deps --no-index /wheels/*.whl
RUN --mount=type=bind,source=release,target=/sbom/release \
    PYTHONPATH=/sbom PYTHONDONTWRITEBYTECODE=1 python -m release.sbom finetune-trainer 0.1.0 /opt/finetune/sbom.spdx.json
USER 1000:1000
WORKDIR /home/finetune
