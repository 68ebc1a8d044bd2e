"""What pyproject.toml cannot say: one package whose folder lies elsewhere, beside those found."""

from setuptools import find_packages, setup

setup(
    # `configs` lies at the top of the repository, where users look for it, and inside the package
    # once installed. `paths.config_folder()` finds it in both places.
    packages=[*find_packages(include=["MMSA_ext", "MMSA_ext.*"]), "MMSA_ext.configs"],
    package_dir={"MMSA_ext": "MMSA_ext", "MMSA_ext.configs": "configs"},
)
