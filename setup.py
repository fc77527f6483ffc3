"""What pyproject.toml cannot say: configs/ is installed as pipeline/configs, for shipped.py."""

from setuptools import find_namespace_packages, setup

setup(
    packages=[
        *find_namespace_packages(include=["pipeline", "pipeline.*", "models"]),
        "pipeline.configs",
    ],
    package_dir={"pipeline.configs": "configs"},
)
