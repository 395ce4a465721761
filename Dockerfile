# One image for every process; docker-compose.yml has the command of each process.
FROM python:3.13-slim@sha256:7c61056e61ac89e852de05f3dc6fa51a6dd2181797bceed46aa725dd7cb2cd3b

ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
WORKDIR /app

# Dependencies first: a code change does not install them again.
COPY requirements.lock ./
RUN pip install --no-cache-dir --no-deps --require-hashes -r requirements.lock

COPY piccolo_conf.py ./
COPY shared/ shared/
COPY api/ api/
COPY console/ console/
COPY worker/ worker/
COPY oms/ oms/
COPY contract/ contract/
COPY docs/ docs/
COPY sample-data/ sample-data/

# A numeric user, so that a platform can check that it is not root.
USER 10001:10001
EXPOSE 8000
CMD ["python", "-m", "api.server"]
