"""Simon Willison's command line `llm`: models come from extra-openai-models.yaml."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from checks import (
    EXPECTED,
    MODEL,
    NAME,
    PICTURE,
    QUESTION,
    UNKNOWN,
    UNSTEERED,
    V1,
    VECTOR,
    NotSupportedError,
    check,
    expect,
    raised,
    run,
)

LLM = Path(sys.executable).with_name("llm")
HOME = TemporaryDirectory()
ENVIRONMENT = os.environ | {"LLM_USER_PATH": HOME.name, "OPENAI_API_KEY": "none"}
FIELDS = 'api_base: "{}"\n  vision: true\n  can_stream: {}\n'

Path(HOME.name, "extra-openai-models.yaml").write_text(
    "".join(
        f'- model_id: "{name}{suffix}"\n  model_name: "{name}"\n  {FIELDS.format(V1, can_stream)}'
        for name in (MODEL, UNSTEERED, VECTOR, UNKNOWN)
        for suffix, can_stream in (("", "true"), ("-whole", "false"))
    )
)


def llm(model: str, *options: str) -> str:
    command = [LLM, "-m", model, QUESTION, "-o", "temperature", "0", *options]
    done = subprocess.run(
        command, env=ENVIRONMENT, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@check("text")
def text() -> None:
    llm(MODEL)


@check("image")
def image() -> None:
    expect(llm(f"{MODEL}-whole", "-a", str(PICTURE)))


@check("stream")
def stream() -> None:
    expect(llm(MODEL, "-a", str(PICTURE)))


@check("vector")
def vector() -> None:
    assert llm(UNSTEERED, "-a", str(PICTURE)).strip() != EXPECTED
    expect(llm(VECTOR, "-a", str(PICTURE)))


def logged() -> str:
    done = subprocess.run(
        [LLM, "logs", "-n", "1", "--json"], env=ENVIRONMENT, capture_output=True, text=True, check=True
    )
    return done.stdout


@check("audit")
def audit() -> None:
    llm(f"{VECTOR}-whole", "-a", str(PICTURE))
    assert f'"name": "{NAME}"' in logged(), logged()


@check("stream audit")
def stream_audit() -> None:
    raise NotSupportedError("of a stream, its log keeps the text and the usage only; use can_stream: false")


@check("errors")
def errors() -> None:
    error = raised(AssertionError, lambda: llm(UNKNOWN))
    assert UNKNOWN in str(error)


run()
