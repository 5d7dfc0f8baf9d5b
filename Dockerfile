# The README's two commands, each in a stage of its own:
#   docker build -t dali-salaug .                        installs and trains
#   docker build -t dali-salaug-test --target test .     installs and tests
# With a GPU: docker run --rm --gpus all dali-salaug. To keep the runs, add -v "$PWD/runs:/home/salaug/dali_salaug/runs",
# a folder that the user of the container may write to. Another base, such as PyTorch's, needs Python 3.10 or later, and
# --build-arg USER_ID=N where it has a user 1000 already.
ARG BASE=python:3.12-slim

FROM ${BASE} AS source
ARG USER_ID=1000
ENV PIP_NO_CACHE_DIR=1 PATH=/home/salaug/venv/bin:$PATH
RUN useradd --create-home --uid ${USER_ID} salaug
USER salaug
# The folder is made here because some builders make that of WORKDIR as root.
RUN python -m venv /home/salaug/venv && mkdir /home/salaug/dali_salaug
WORKDIR /home/salaug/dali_salaug
COPY --chown=salaug . .

FROM source AS train
RUN pip install -e .
CMD ["python", "-m", "train"]

FROM train AS test
RUN pip install -e ".[dev]"
CMD ["python", "-m", "pytest", "-n", "2"]

# Without --target, a build ends here.
FROM train
