# The web page and the HTTP API of deeplab on port 7860, as an ordinary user:
#     docker build -t deeplab .
#     docker run --read-only --tmpfs /tmp -p 127.0.0.1:7860:7860 deeplab
# If your package index offers only CUDA builds of torch, add --build-arg PIP_EXTRA_INDEX_URL=<CPU index of pytorch.org>.
FROM python:3.12-slim AS build
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
ARG PIP_EXTRA_INDEX_URL=""
WORKDIR /source
COPY constraints.txt ./
COPY densecrf ./densecrf
COPY deeplab ./deeplab
RUN PIP_CONSTRAINT=/source/constraints.txt pip wheel --no-cache-dir --wheel-dir /wheels ./densecrf './deeplab[app]'

FROM python:3.12-slim
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir --no-index --find-links /wheels 'deeplab-crf[app]' && rm -r /wheels \
    && useradd --create-home --uid 1000 deeplab
USER deeplab
ENV MPLCONFIGDIR=/tmp HF_HOME=/tmp PYTHONDONTWRITEBYTECODE=1
EXPOSE 7860
HEALTHCHECK --start-period=60s CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:7860/healthz', timeout=5)"]
ENTRYPOINT ["deeplab", "app", "--host", "0.0.0.0"]
