"""What pyproject.toml cannot say: a folder that lies elsewhere, and the text of a package index."""

import re
from pathlib import Path

from setuptools import find_namespace_packages, setup

LEFT_OUT = ["*.__pycache__", "__pycache__"]
# An image, and a link, to a file of the repository.
PICTURE = re.compile(r"!\[[^]]*\]\((?!https?:)[^)]*\)\n*")
LINK = re.compile(r"\[([^]]+)\]\((?!https?:)[^)]*\)")


def description() -> str:
    """README.md without what leads to files that a package index does not have."""
    return LINK.sub(r"\1", PICTURE.sub("", Path("README.md").read_text("utf-8")))


# `configs` lies at the top of the repository, where users look for it, and inside the package once
# installed. `paths.config_folder()` finds it in both places.
configs = ["MMSA_ext.configs"]
configs += [
    f"MMSA_ext.configs.{name}" for name in find_namespace_packages("configs", exclude=LEFT_OUT)
]
setup(
    packages=[
        *find_namespace_packages(include=["MMSA_ext", "MMSA_ext.*"], exclude=LEFT_OUT),
        *configs,
    ],
    package_dir={"MMSA_ext": "MMSA_ext", "MMSA_ext.configs": "configs"},
    long_description=description(),
    long_description_content_type="text/markdown",
)
