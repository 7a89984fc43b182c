"""Decoding of untrusted images: the one place that turns files into pixels.

Questions, demonstrations, task keys and training examples are all decoded here, so that the same file has the same
pixels everywhere. docs/reference/images.md states what is accepted and how it is read.
"""

from vlibrary.formats.images.decode import decode_image, decode_images

__all__ = ["decode_image", "decode_images"]
