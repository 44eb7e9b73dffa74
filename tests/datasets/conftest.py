"""Folders of pictures for the tests of data sets."""

from helpers.digit_images import digits_folder  # noqa: F401
