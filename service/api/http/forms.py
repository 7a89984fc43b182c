"""Multipart forms (RFC 7578), read strictly: a form that is cut or in doubt is refused, never read in part.

Starlette's parser accepts a form whose end is missing, drops what follows its end, and reads text that is not UTF-8 as
Latin-1.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from vlibrary.domain.errors import InvalidInput
from vlibrary.formats.text import decode_utf8

MAX_PARTS = 128
_MAX_BOUNDARY = 200
_MAX_HEAD_BYTES = 16_384
_LINE_END = b"\r\n"
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PARAMETER = re.compile(rf';\s*({_TOKEN})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s";]*))\s*')
_VALUE = re.compile(rf'\s*([^;\s]*)\s*((?:;\s*{_TOKEN}\s*=\s*(?:"(?:[^"\\]|\\.)*"|[^\s";]*)\s*)*);?\s*')
_FILE_TYPES = ("image/", "application/octet-stream")
_PLAIN_ENCODINGS = ("", "7bit", "8bit", "binary")
_UTF8_CHARSETS = ("", "utf-8", "utf8", "us-ascii", "ascii")


@dataclass(frozen=True)
class Part:
    """One part of a form. is_file: it has a file name, or the type of an image or of any bytes."""

    name: str
    content: bytes
    is_file: bool
    charset: str = ""

    def text(self) -> str:
        """Return the content as text. Raises ValueError that says where it is not UTF-8."""
        if self.charset not in _UTF8_CHARSETS:
            raise ValueError(f"the part has the charset {self.charset!r}; send UTF-8")
        return decode_utf8(self.content)


def parse_form(body: bytes, content_type: str) -> list[Part]:
    """Return the parts of a multipart body. content_type: its header. Raises InvalidInput."""
    boundary = _parse_value(content_type, "Content-Type of the request")[1].get("boundary", "")
    if not 0 < len(boundary) <= _MAX_BOUNDARY:
        raise _form_error("the Content-Type names no boundary")
    sections = _split(body, b"--" + boundary.encode("latin-1"))
    if len(sections) > MAX_PARTS:
        raise _form_error(f"it has {len(sections)} parts; send at most {MAX_PARTS}")
    return [_parse_part(section, f"part {number}") for number, section in enumerate(sections, start=1)]


def _split(body: bytes, dashes: bytes) -> list[bytes]:
    """Return headers and content of each part: what lies between the delimiters. Raises InvalidInput."""
    delimiter = _LINE_END + dashes
    if body.startswith(dashes):
        start = len(dashes)
    elif body.startswith(delimiter):
        start = len(delimiter)
    else:
        raise _form_error("it does not start with the boundary that the Content-Type names")
    sections = []
    while not body.startswith(b"--", start):
        line_end = body.find(_LINE_END, start)
        if line_end < 0 or body[start:line_end].strip(b" \t"):
            raise _form_error("a line that starts with the boundary does not end after it")
        # The line end belongs to the next delimiter if the part is empty.
        end = body.find(delimiter, line_end)
        if end < 0:
            raise _form_error("its closing delimiter is missing, so the end was cut off")
        sections.append(body[line_end + len(_LINE_END) : end])
        start = end + len(delimiter)
    if body[start + 2 :].strip(b" \t\r\n"):
        raise _form_error("data follows its closing delimiter")
    return sections


def _parse_part(section: bytes, place: str) -> Part:
    head, blank_line, content = section.partition(_LINE_END * 2)
    if not blank_line:
        raise _form_error(f"no blank line ends the headers of {place}")
    headers = _parse_headers(head, place)
    kind, parameters = _parse_value(headers.get("content-disposition", ""), f"Content-Disposition of {place}")
    if kind != "form-data" or "name" not in parameters:
        raise _form_error(f'{place} has no header Content-Disposition: form-data; name="..."')
    name = parameters["name"]
    encoding = headers.get("content-transfer-encoding", "").strip().lower()
    if encoding not in _PLAIN_ENCODINGS:
        raise _form_error(
            f"the part {name!r:.80} has the Content-Transfer-Encoding {encoding!r:.80}; send it unencoded"
        )
    length = headers.get("content-length", str(len(content))).strip()
    if length != str(len(content)):
        raise _form_error(f"the part {name!r:.80} has {len(content)} bytes, but its Content-Length is {length!r:.80}")
    media_type, described = _parse_value(headers.get("content-type", ""), f"Content-Type of the part {name!r:.80}")
    # Some clients send bytes with a type only.
    is_file = "filename" in parameters or "filename*" in parameters or media_type.startswith(_FILE_TYPES)
    return Part(name, content, is_file, described.get("charset", "").lower())


def _parse_headers(head: bytes, place: str) -> dict[str, str]:
    if len(head) > _MAX_HEAD_BYTES:
        raise _form_error(f"the headers of {place} have {len(head):,} bytes; send at most {_MAX_HEAD_BYTES:,}")
    headers: dict[str, str] = {}
    # File names in other encodings are allowed, because they are not used.
    for line in head.decode("utf-8", errors="backslashreplace").split("\r\n"):
        name, colon, value = line.partition(":")
        if not colon or not re.fullmatch(_TOKEN, name) or "\n" in line or "\r" in line or "\0" in line:
            raise _form_error(f"{place} has the header line {line!r:.80}")
        if name.lower() in headers:
            raise _form_error(f"{place} has two headers {name}")
        headers[name.lower()] = value
    return headers


def _parse_value(text: str, place: str) -> tuple[str, dict[str, str]]:
    """Return a header's value and its parameters. place: what it is, for the error. Raises InvalidInput."""
    found = _VALUE.fullmatch(text)
    if found is None:
        raise _form_error(f"{place} is {text.strip()!r:.80}")
    parameters: dict[str, str] = {}
    for name, quoted, plain in _PARAMETER.findall(found[2]):
        if name.lower() in parameters:
            raise _form_error(f"{place} has two parameters {name}")
        parameters[name.lower()] = quoted or plain
    return found[1].lower(), parameters


def _form_error(problem: str) -> InvalidInput:
    return InvalidInput(f"The form is malformed: {problem}.", "Send the whole form as RFC 7578 describes it.")
