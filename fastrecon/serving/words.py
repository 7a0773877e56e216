"""What a server is told in words: its models, and the token of its clients."""

from collections.abc import Sequence
from pathlib import Path

from fastrecon import io
from fastrecon.models import pretrained


def named(models: Sequence[str]) -> dict[str, str]:
    """The models by the names that clients use, those of files without folder and suffix; all shipped ones of none.

    Raises:
        ValueError: two have one name.
    """
    found: dict[str, str] = {}
    for model in models or pretrained():
        name = model if model in pretrained() else Path(model).name.removesuffix(".safetensors")
        if name in found:
            raise ValueError(f"MODEL: expected models with different names, got two {io.shown(repr(name))}")
        found[name] = model
    return found


def token_in(path: str | None) -> str:
    """The token in a file; "" of none.

    Raises:
        ValueError: there is no such file, or something else in it.
    """
    if path is None:
        return ""
    text = io.existing(path).read_bytes()[:4097].strip()
    good = 16 <= len(text) <= 4096 and text.isascii() and not any(c in text for c in b" \n\r\t")
    if not good:
        raise ValueError(
            f"--token-file: expected one token of 16 to 4096 characters, got {len(text)} in {io.shown(path)}"
        )
    return text.decode()
