# The README's two commands, each in a stage of its own:
#   docker build -t dali-salaug .                        installs and trains
#   docker build -t dali-salaug-test --target test .     installs and tests
# With a GPU: docker run --rm --gpus all dali-salaug. Another base, such as PyTorch's, needs Python 3.10 or later.
ARG BASE=python:3.12-slim

FROM ${BASE} AS source
ARG USER_ID=1000
ENV PIP_NO_CACHE_DIR=1 PATH=/home/salaug/venv/bin:$PATH
RUN useradd --create-home --uid ${USER_ID} salaug
USER salaug
RUN python -m venv /home/salaug/venv
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
